"""Backends around a backend: rows padded, calls split, scan taken away, inputs preceded by their past."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.backend import Backend, FirstInput, StateSpec, StateTensor, TensorSpec
from streamrnn.core.beside import SlabBeside
from streamrnn.errors import ModelError

if TYPE_CHECKING:
    from streamrnn.backend import Arrays
    from streamrnn.events import Array, BoolArray, IntArray

    Scanned = tuple[Arrays, Arrays, IntArray]


class Wrapper(Backend):
    """Passes everything on to `inner`; its slab too, so the state stays what the inner backend made it."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.inputs, self.outputs, self.state = inner.inputs, inner.outputs, inner.state
        self.max_rows, self.make_slab = inner.max_rows, inner.make_slab
        self.ragged, self.label = inner.ragged, inner.label
        self.scan = None if inner.scan is None else self._scan
        self.explain, self.interrupt = inner.explain, inner.interrupt
        self.libraries = inner.libraries

    def open(self, device: str = "cpu", threads: int = 1) -> None:
        """See `Backend.open`."""
        self.inner.open(device, threads)

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`."""
        return self.inner.step(state, x)

    def close(self) -> None:
        """See `Backend.close`."""
        self.inner.close()

    def _scan(self, state: Arrays, x: Arrays, lens: IntArray) -> Scanned:
        assert self.inner.scan is not None
        return self.inner.scan(state, x, lens)


class WithoutScan(Wrapper):
    """The same model without scan; the fingerprint stays, for step alone decides what state means."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.scan = None


class Padded(Wrapper):
    """Calls with a multiple of `rows` rows, filled up with copies of the last one.

    State of a device slab may be any array that numpy integer arrays can index. Raises `ModelError` if
    `rows` is under 1 or the model takes fewer.
    """

    def __init__(self, inner: Backend, rows: int) -> None:
        super().__init__(inner)
        if rows < 1 or (inner.max_rows is not None and rows > inner.max_rows):
            limit = "any number" if inner.max_rows is None else f"at most {inner.max_rows}"
            raise ModelError(f"cannot pad to {rows} rows: expected 1 or more, and the model takes {limit}")
        self.rows = rows
        self.state = _with_option(inner.state, f"padded={rows}")
        if inner.max_rows is not None:
            self.max_rows = inner.max_rows - inner.max_rows % rows

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`."""
        n = _count(self.state, state, x)
        index = self._index(n)
        if len(index) == n:
            return self.inner.step(state, x)
        new_state, y = self.inner.step(*self._pad(state, x, index))
        return self._cut(new_state, n), {name: array[:n] for name, array in y.items()}

    def _scan(self, state: Arrays, x: Arrays, lens: IntArray) -> Scanned:
        n = len(lens)
        index = self._index(n)
        if len(index) == n:
            return super()._scan(state, x, lens)
        new_state, y, bad_at = super()._scan(*self._pad(state, x, index), lens[index])
        return self._cut(new_state, n), {name: array[:n] for name, array in y.items()}, bad_at[:n]

    def _index(self, n: int) -> IntArray:
        return np.minimum(np.arange(-(-n // self.rows) * self.rows), n - 1)

    def _pad(self, state: Arrays, x: Arrays, index: IntArray) -> tuple[Arrays, Arrays]:
        padded = {}
        for tensor in self.state.tensors:
            rows = _at(state[tensor.name], tensor.batch_axis, index)
            # Indexing an inner axis leaves strides that some matrix products answer with other bits.
            padded[tensor.name] = np.ascontiguousarray(rows) if isinstance(rows, np.ndarray) else rows
        return padded, {name: array[index] for name, array in x.items()}

    def _cut(self, state: Arrays, n: int) -> Arrays:
        return {t.name: _at(state[t.name], t.batch_axis, slice(0, n)) for t in self.state.tensors}


class Chunked(Wrapper):
    """Calls of any number of rows, for a model that takes at most `max_rows`.

    The fingerprint stays: that limit belongs to the model's file. Raises `ModelError` for a backend with a
    slab of its own, whose states cannot be joined here.
    """

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        if inner.make_slab is not None:
            raise ModelError(
                "max_rows needs states in host memory, but this backend keeps them in a slab of its own; "
                "let the backend split its calls itself"
            )
        self.max_rows = None

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`."""
        parts = [self.inner.step(*part) for part in self._parts(state, x, _count(self.state, state, x))]
        return self._join_state([part[0] for part in parts]), _join([part[1] for part in parts])

    def _scan(self, state: Arrays, x: Arrays, lens: IntArray) -> Scanned:
        starts = range(0, len(lens), self.inner.max_rows or len(lens))
        cut = self._parts(state, x, len(lens))
        parts = [
            super(Chunked, self)._scan(*part, lens[start : start + starts.step])
            for start, part in zip(starts, cut, strict=True)
        ]
        bad_at = np.concatenate([part[2] for part in parts])
        return self._join_state([part[0] for part in parts]), _join([part[1] for part in parts]), bad_at

    def _parts(self, state: Arrays, x: Arrays, n: int) -> Iterator[tuple[Arrays, Arrays]]:
        size = self.inner.max_rows or n
        for start in range(0, n, size):
            rows = slice(start, start + size)
            part = {t.name: _at(state[t.name], t.batch_axis, rows) for t in self.state.tensors}
            yield part, {name: array[rows] for name, array in x.items()}

    def _join_state(self, parts: list[Arrays]) -> Arrays:
        return {
            t.name: np.concatenate([part[t.name] for part in parts], axis=t.batch_axis)
            for t in self.state.tensors
        }


class WithContext(Wrapper):
    """Puts the last `sizes[name]` numbers of an input's past in front of it, zeros where there was none.

    A model input [n, size + w] is fed from one of width w; the past is a state tensor `context.<name>` of
    shape (size,). Raises `ModelError` for an input that is unknown, not of floats, not one-dimensional or too
    narrow, and for one that a `FirstInput` reads.
    """

    def __init__(self, inner: Backend, sizes: Mapping[str, int]) -> None:
        super().__init__(inner)
        self.sizes = dict(sizes)
        for name, size in self.sizes.items():
            _check_context(inner, name, size)
        self.inputs = tuple(self._narrow(spec) for spec in inner.inputs)
        kept = [
            StateTensor(f"context.{spec.name}", (self.sizes[spec.name],), spec.dtype)
            for spec in self.inputs
            if spec.name in self.sizes
        ]
        if inner.make_slab is not None:
            make_inner, beside = inner.make_slab, StateSpec(tuple(kept))
            self.make_slab = lambda capacity: SlabBeside(make_inner(capacity), beside, capacity)
        sorted_sizes = ",".join(f"{name}:{size}" for name, size in sorted(self.sizes.items()))
        marked = _with_option(inner.state, f"context={sorted_sizes}")
        meaning = inner.state.meaning and f"{inner.state.meaning}+context={sorted_sizes}"
        self.state = StateSpec((*inner.state.tensors, *kept), marked.fingerprint, meaning)

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`."""
        joined = dict(x)
        for name in self.sizes:
            joined[name] = self._join(state, x, name)
        new_state, y = self.inner.step(self._inner_state(state), joined)
        kept = {f"context.{name}": joined[name][:, -size:].copy() for name, size in self.sizes.items()}
        return {**new_state, **kept}, y

    def _scan(self, state: Arrays, x: Arrays, lens: IntArray) -> Scanned:
        joined, kept = dict(x), {}
        finite = np.ones((len(lens), 1), np.bool_)
        for name, size in self.sizes.items():
            width = x[name].shape[2]
            stream = self._join(state, x, name)
            joined[name] = np.ascontiguousarray(_windows(stream, size + width)[:, ::width])
            kept[f"context.{name}"] = np.take_along_axis(
                stream, (lens * width)[:, None] + np.arange(size), axis=1
            )
            finite = finite & _windows(np.isfinite(stream), size)[:, width::width].all(axis=2)
        new_state, y, bad_at = super()._scan(self._inner_state(state), joined, lens)
        return {**new_state, **kept}, y, _earlier(bad_at, finite, lens)

    def _join(self, state: Arrays, x: Arrays, name: str) -> Array:
        """The past and then the input, flat: [n, size + w], or [n, size + t * w] in a scan."""
        past = state[f"context.{name}"]
        return np.concatenate([past, np.asarray(x[name], past.dtype).reshape(len(past), -1)], axis=1)

    def _narrow(self, spec: TensorSpec) -> TensorSpec:
        size = self.sizes.get(spec.name)
        return spec if size is None else replace(spec, shape=(spec.shape[0] - size,))

    def _inner_state(self, state: Arrays) -> Arrays:
        return {tensor.name: state[tensor.name] for tensor in self.inner.state.tensors}


def _check_context(inner: Backend, name: str, size: int) -> None:
    spec = next((spec for spec in inner.inputs if spec.name == name), None)
    if spec is None:
        known = ", ".join(spec.name for spec in inner.inputs)
        raise ModelError(f"context of '{name}': expected an input of the model ({known})")
    if len(spec.shape) != 1 or not spec.dtype.startswith("float"):
        raise ModelError(f"context of '{name}': expected a vector of floats, found {spec.dtype} {spec.shape}")
    if not 1 <= size < spec.shape[0]:
        raise ModelError(
            f"context of '{name}': the model takes {spec.shape[0]} numbers, expected a context of 1 to "
            f"{spec.shape[0] - 1} of them, found {size}"
        )
    for tensor in inner.state.tensors:
        if isinstance(tensor.initial, FirstInput) and tensor.initial.input == name:
            raise ModelError(
                f"context of '{name}': state '{tensor.name}' begins as that input, which is narrower without "
                "its context; give the state another initial value"
            )
        if tensor.name == f"context.{name}":
            raise ModelError(f"context of '{name}': the model already has a state '{tensor.name}'; rename it")


def _with_option(state: StateSpec, option: str) -> StateSpec:
    return replace(state, fingerprint=f"{state.fingerprint}+{option}")


def _count(spec: StateSpec, state: Arrays, x: Arrays) -> int:
    """Rows of a call."""
    for array in x.values():
        return len(array)
    return int(state[spec.tensors[0].name].shape[spec.tensors[0].batch_axis])


def _at(array: Any, axis: int, rows: slice | IntArray) -> Any:
    return array[(slice(None),) * axis + (rows,)]


def _join(parts: list[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _windows(stream: Array, size: int) -> Array:
    return np.lib.stride_tricks.sliding_window_view(stream, size, axis=1)


def _earlier(bad_at: IntArray, finite: BoolArray, lens: IntArray) -> IntArray:
    """The first bad step, found by the model or in `finite` [n, t], or -1."""
    bad = ~finite & (np.arange(finite.shape[1]) < lens[:, None])
    first = np.where(bad.any(axis=1), bad.argmax(axis=1), lens)
    both = np.minimum(first, np.where(bad_at < 0, lens, bad_at))
    return np.where(both < lens, both, -1)
