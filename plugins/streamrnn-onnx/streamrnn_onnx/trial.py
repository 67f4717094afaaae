"""A first load and step in a process of its own, under limits of time and memory.

Small graphs of operators whose results are about as large as what they are given need none. Others may ask
for any amount of either, and ONNX Runtime computes constants as early as when a session is made.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from streamrnn_onnx.graph import all_nodes

if TYPE_CHECKING:
    from onnx import ModelProto, TypeProto

    from streamrnn_onnx.config import OnnxConfig

CALM = frozenset(
    {"Abs", "Add", "And", "BatchNormalization", "Cast", "Ceil", "Clip"}
    | {"Concat", "Constant", "Conv", "Cos", "CausalConvWithState", "DequantizeLinear", "Div"}
    | {"Dropout", "DynamicQuantizeLSTM", "DynamicQuantizeLinear", "Elu", "Equal", "Erf", "Exp"}
    | {"Flatten", "Floor", "GRU", "Gather", "Gelu", "Gemm", "Greater"}
    | {
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "InstanceNormalization",
        "LSTM",
        "LayerNormalization",
        "LeakyRelu",
    }
    | {"Less", "LinearAttention", "Log", "LogSoftmax", "MatMul", "Max", "Min"}
    | {"Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu"}
    | {"Pow", "QuantizeLinear", "RMSNormalization", "RNN", "Reciprocal", "ReduceMax", "ReduceMean"}
    | {"ReduceMin", "ReduceSum", "Relu", "Reshape", "Round", "Selu", "Shape"}
    | {"Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Softplus", "Softsign"}
    | {"Split", "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tan"}
    | {"Tanh", "Transpose", "Unsqueeze", "Where", "Xor"}
)
Feed = tuple[Sequence[int], str, Any]
"""Shape, dtype and values of an input, or one value for all."""
_NODES_MAX, _ELEMENTS_MAX = 3000, 1 << 25


def needs_trial(model: ModelProto) -> bool:
    """Whether a graph may take much more time or memory than its file."""
    import onnx

    nodes = list(all_nodes(model.graph))
    if model.functions or len(nodes) > _NODES_MAX or any(node.op_type not in CALM for node in nodes):
        return True
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except Exception:
        return True
    known = {value.name: value.type for value in (*inferred.value_info, *inferred.output)}
    made = {name for node in nodes for name in node.output if name}
    return any(_elements(known.get(name)) > _ELEMENTS_MAX for name in made)


def _elements(kind: TypeProto | None) -> int:
    """Elements of a value for one row and one step; very many where the sizes are not known."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return _ELEMENTS_MAX + 1
    sizes = [dim.dim_value or 1 for dim in kind.tensor_type.shape.dim]
    return prod(sizes) if all(size > 0 for size in sizes) else _ELEMENTS_MAX + 1


def try_first_step(model: bytes, ways: Sequence[Mapping[str, Feed]], config: OnnxConfig) -> str | None:
    """Why a model cannot be loaded and run once within the limits, or None.

    `ways` are its inputs by name, in every way that they may be understood; one that runs is enough.
    """
    memory = config.max_memory_bytes + 4 * len(model)
    said = {"ways": ways, "memory": memory, "seconds": config.first_step_s, "threads": config.threads}
    header = json.dumps(said).encode()
    command = [sys.executable, "-m", "streamrnn_onnx.trial"]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            input=struct.pack("<q", len(header)) + header + model,
            capture_output=True,
            timeout=config.first_step_s,
            env=paths,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"loading and a first step did not end within first_step_s: {config.first_step_s:g}"
    if done.returncode == 0:
        return None
    found = done.stdout.decode(errors="replace").strip()
    if found:
        return f"loading and a first step failed: {found}"
    return f"loading and a first step ended the process ({done.returncode}), within {memory} bytes of memory"


def main() -> int:
    """The other process: 0 if the model runs."""
    stream = sys.stdin.buffer
    (size,) = struct.unpack("<q", stream.read(8))
    said: dict[str, Any] = json.loads(stream.read(size))
    _limit(said["memory"], said["seconds"])
    try:
        _run(stream.read(), said["ways"], said["threads"])
    except Exception as error:
        print(" ".join(f"{type(error).__name__}: {error}".split())[:400])
        return 1
    return 0


def _limit(memory: int, seconds: float) -> None:
    try:
        import resource
    except ImportError:  # not on Windows, where the deadline alone must do
        return
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, hard))


def _run(model: bytes, ways: Sequence[Mapping[str, Feed]], threads: int) -> None:
    import numpy as np

    from streamrnn_onnx.session import open_session

    session = open_session(model, ["cpu"], threads).session
    failures = []
    for way in ways:
        feeds = {name: np.full(shape, value, dtype) for name, (shape, dtype, value) in way.items()}
        try:
            session.run(None, feeds)
        except Exception as error:
            failures.append(error)
    if len(failures) == len(ways) > 0:
        raise failures[0]


if __name__ == "__main__":
    sys.exit(main())
