"""An ONNX model over whole sequences, and what it would be with the gates of its nodes in another order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.backends.offline_layers import OfflineLayers
from streamrnn.core.slab import HostSlab
from streamrnn.layers.loading import LoadedModel
from streamrnn.limits import INITIAL, ZEROS
from streamrnn.offline import ONNX_GRU, ONNX_LSTM, GateOrder, Offline, Variant, gate_orders
from streamrnn_onnx.graph import read_graph, title
from streamrnn_onnx.layers import layers_config
from streamrnn_onnx.loading import build_graph
from streamrnn_onnx.model_file import read_model

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from streamrnn.backend import Arrays, TensorSpec
    from streamrnn.context import Context
    from streamrnn_onnx.config import OnnxConfig

GATES = {"LSTM": ONNX_LSTM, "GRU": ONNX_GRU}
_WEIGHTS = slice(1, 4)
"""W, R and B among a node's inputs."""


def build(config: OnnxConfig, given: Mapping[str, TensorSpec], context: Context) -> Offline:
    """The offline model of the backend's options. Raises what building the backend raises."""
    if config.layers is not None:
        return OfflineLayers(LoadedModel(layers_config(config), given, context))
    graph, _ = read_model(config, context)
    return OfflineGraph(config, given, graph.proto)


class OfflineGraph(Offline):
    """The graph as it is, with an axis of steps: one call a sequence. Without one: step by step."""

    def __init__(self, config: OnnxConfig, given: Mapping[str, TensorSpec], proto: ModelProto) -> None:
        self._config, self._given, self._proto = config, given, proto
        on_host = config.model_copy(update={"providers": ["cpu"]})
        self._backend = build_graph(on_host, given, read_graph(proto), proto.SerializeToString())
        self.inputs, self.outputs = self._backend.inputs, self._backend.outputs
        self._slab = HostSlab(self._backend.state, 1)

    def sequence(self, x: Arrays, zeros: bool = False) -> Arrays:
        """See `Offline.sequence`. A graph whose state was hidden is the unchanged one, as it was exported."""
        backend, whole = self._backend, {name: array[None] for name, array in x.items()}
        if backend.original is not None and backend.has_steps and not zeros:
            y = backend.outputs_of(backend.original, whole, 1)
        elif backend.has_steps:
            y = backend.call(self._first(x, zeros), whole)[1]
        else:
            state, answers = self._first(x, zeros), []
            for k in range(len(next(iter(x.values())))):
                state, one = backend.step(state, {name: array[k : k + 1] for name, array in x.items()})
                answers.append(one)
            return {name: np.concatenate([one[name] for one in answers]) for name in answers[0]}
        return {name: array[0] for name, array in y.items()}

    def variants(self) -> Iterator[Variant]:
        """See `Offline.variants`: all nodes of a kind with their gates in another order, then each alone."""
        constants = {tensor.name for tensor in self._proto.graph.initializer}
        for kind, names in GATES.items():
            places = [
                place
                for place, node in enumerate(self._proto.graph.node)
                if node.op_type == kind and set(filter(None, node.input[_WEIGHTS])) <= constants
            ]
            groups = [places, *([place] for place in places if len(places) > 1)] if places else []
            for group in groups:
                where = ", ".join(title(self._proto.graph.node[place]) for place in group)
                for order in gate_orders(names):
                    yield Variant(order.text(where), self._reordered(group, order))

    def close(self) -> None:
        """See `Offline.close`."""
        self._backend.close()

    def _first(self, x: Arrays, zeros: bool) -> Arrays:
        fresh = np.array([ZEROS if zeros else INITIAL], np.int8)
        return self._slab.take(np.zeros(1, np.int64), fresh, {name: array[:1] for name, array in x.items()})

    def _reordered(self, group: Sequence[int], order: GateOrder) -> OfflineGraph:
        proto = type(self._proto)()
        proto.CopyFrom(self._proto)
        wanted = {name for place in group for name in _weights(proto.graph.node[place])}
        for tensor in proto.graph.initializer:
            if tensor.name in wanted:
                _reorder(tensor, order)
        return OfflineGraph(self._config, self._given, proto)


def _weights(node: NodeProto) -> list[str]:
    return [name for name in node.input[_WEIGHTS] if name]


def _reorder(tensor: Any, order: GateOrder) -> None:
    """W and R [directions, gates * hidden, ...] or B [directions, 2 * gates * hidden], in place."""
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor)
    sides = 2 if array.ndim == 2 else 1
    blocks = array.reshape(array.shape[0] * sides, len(order.read), -1)[:, order.blocks]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(blocks.reshape(array.shape)), tensor.name))
