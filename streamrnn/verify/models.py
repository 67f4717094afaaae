"""Models over whole sequences, made of what a pipeline file names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.build import check_description, load_backend
from streamrnn.config.problems import from_option_error
from streamrnn.core.slab import HostSlab
from streamrnn.core.wrap import WithContext
from streamrnn.errors import ConfigError, ModelError, OptionError
from streamrnn.limits import INITIAL, ZEROS
from streamrnn.offline import Offline, Variant

if TYPE_CHECKING:
    from streamrnn.backend import Arrays, Backend, TensorSpec
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.verify.stream import Stream


def load_offline(spec: PipelineSpec, context: Context) -> Offline:
    """The model of a pipeline file over whole sequences, its `context` included.

    Raises `ConfigError` or `ModelError`.
    """
    sizes, component = spec.file.model.context, spec.model.component
    if component.offline is None:
        backend = load_backend(spec, context)
        return Stepped(WithContext(backend, sizes) if sizes else backend)
    try:
        options, trusting = spec.model.options, spec.trusting(context)
        model: Offline = component.resolve("offline")(options, spec.given, trusting)
    except OptionError as error:
        raise ConfigError(from_option_error(error, spec.model.path, spec.tree)) from error
    check_description(spec, model)
    return Windowed(model, sizes) if sizes else model


class Stepped(Offline):
    """A backend, one event after the other, one row a call."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.inputs, self.outputs = backend.inputs, backend.outputs
        self._slab = backend.make_slab(1) if backend.make_slab else HostSlab(backend.state, 1)

    def sequence(self, x: Arrays, zeros: bool = False) -> Arrays:
        """See `Offline.sequence`."""
        events = [{name: array[k : k + 1] for name, array in x.items()} for k in range(_length(x))]
        fresh = np.array([ZEROS if zeros else INITIAL], np.int8)
        state = self._slab.take(np.zeros(1, np.int64), fresh, events[0])
        answers = []
        for event in events:
            state, y = self._backend.step(state, event)
            answers.append(y)
        return {name: np.concatenate([np.asarray(y[name]) for y in answers]) for name in answers[0]}

    def close(self) -> None:
        """See `Offline.close`."""
        self._backend.close()


class Windowed(Offline):
    """Puts the last numbers of an input's past in front of it, as `context` says; zeros where it has none."""

    def __init__(self, model: Offline, sizes: Mapping[str, int]) -> None:
        self._model, self._sizes = model, sizes
        self.outputs = model.outputs
        self.inputs = tuple(
            replace(spec, shape=(spec.width - sizes.get(spec.name, 0),)) if spec.name in sizes else spec
            for spec in model.inputs
        )

    def sequence(self, x: Arrays, zeros: bool = False) -> Arrays:
        """See `Offline.sequence`."""
        whole = dict(x)
        for name, size in self._sizes.items():
            past = np.concatenate([np.zeros(size, x[name].dtype), x[name].reshape(-1)])
            width = size + x[name].shape[1]
            windows = np.lib.stride_tricks.sliding_window_view(past, width)[:: x[name].shape[1]]
            whole[name] = np.ascontiguousarray(windows)
        return self._model.sequence(whole, zeros)

    def variants(self) -> Iterator[Variant]:
        """See `Offline.variants`."""
        for variant in self._model.variants():
            yield Variant(variant.text, Windowed(variant.model, self._sizes))

    def close(self) -> None:
        """See `Offline.close`."""
        self._model.close()


def answers(model: Offline, stream: Stream) -> Arrays:
    """The model's answers [n, *shape] to a stream, each segment as one sequence.

    Raises `ModelError` where the model refuses a sequence, or answers with other names or shapes than it
    declares.
    """
    found = {spec.name: np.zeros((len(stream), *spec.shape), spec.dtype) for spec in model.outputs}
    for events in stream.segments():
        x = {name: array[events] for name, array in stream.x.items()}
        try:
            y = model.sequence(x, zeros=int(stream.fresh[events[0]]) == ZEROS)
        except ModelError:
            raise
        except Exception as error:
            where = f"the {len(events)} events of key '{stream.keys[events[0]]}' from one reset to the next"
            raise ModelError(
                f"the offline model fails on {where}: {type(error).__name__}: {error}"
            ) from error
        for name, array in found.items():
            expected = (len(events), *array.shape[1:])
            if name not in y or np.shape(y[name]) != expected:
                shown = {other: np.shape(value) for other, value in y.items()}
                raise ModelError(f"the offline model answers {shown}, expected '{name}' of shape {expected}")
            array[events] = y[name]
    return found


def fitted(stream: Stream, inputs: tuple[TensorSpec, ...]) -> Stream | None:
    """The stream as a model with these inputs takes it; None if names or widths do not fit.

    A model's only input fits a stream's only one, whatever their names.
    """
    names = {spec.name: spec.name for spec in inputs}
    if len(inputs) == len(stream.x) == 1:
        names = {inputs[0].name: next(iter(stream.x))}
    x: Arrays = {}
    for spec in inputs:
        array = stream.x.get(names[spec.name])
        if array is None or array[:1].size != spec.width * len(array[:1]):
            return None
        x[spec.name] = array.astype(spec.dtype).reshape(len(array), *spec.shape)
    return replace(stream, x=x)


def _length(x: Arrays) -> int:
    return len(next(iter(x.values())))
