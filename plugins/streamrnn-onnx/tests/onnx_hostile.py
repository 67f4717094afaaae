"""Model files that want to run code, read other files, or take all time or memory; and harmless near-twins.

    python onnx_hostile.py FOLDER      makes the files, loads each under limits, prints what became of them

Run as a program it holds itself to a gigabyte. Each line of its output is a JSON object: name, hostile,
options, outcome ("loaded" or the reason), seconds.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CANARY = b"canary: nobody may read this"
FLOATS = np.frombuffer(CANARY, np.float32)
"""The canary as weights: seven numbers."""


class Runs:
    """A pickle that leaves a marker when it is read."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def info(name: str, *dims: Any, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, list(dims))


def ints(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def floats(name: str, *values: float) -> Any:
    return numpy_helper.from_array(np.array(values, np.float32), name)


def model(
    nodes: Any, initial: Any = (), functions: Any = (), inputs: Any = None, outputs: Any = None
) -> bytes:
    """x [B, 7] -> y, unchecked."""
    graph = helper.make_graph(
        list(nodes), "g", inputs or [info("x", "B", 7)], outputs or [info("y", "B", 7)], list(initial)
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=9, functions=list(functions))
    return made.SerializeToString()


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"the_{op}_{outputs}", **attributes)


def external(location: str, **entries: Any) -> Any:
    tensor = floats("w", *range(7))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


ADD = [node("Add", "x w", "y")]


def formats() -> Iterator[tuple[str, bytes]]:
    """Other formats under the name of a model."""
    harm = Runs()
    yield "pickle", pickle.dumps(harm)
    yield "pickle of old", pickle.dumps(harm, 0)
    for name, member in (
        ("checkpoint", "archive/data.pkl"),
        ("torchscript", "m/code/__torch__.py"),
        ("pt2", "archive_format"),
    ):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(member, pickle.dumps(harm))
        yield name, buffer.getvalue()
    buffer = io.BytesIO()
    np.savez(buffer, w=np.zeros(3))
    yield "npz", buffer.getvalue()
    yield "hdf5", b"\x89HDF\r\n\x1a\n" + bytes(100)
    yield "ort format", struct.pack("<i", 24) + b"ORTM" + bytes(100)
    yield "empty", b""
    yield "text", b"import os\nos.mkdir('executed')\n"
    yield "cut short", model(ADD, [floats("w", *range(7))])[:-20]


def resources() -> Iterator[tuple[str, bytes]]:
    """Small files that ask for much."""
    big = ints("big", 1 << 17, 1 << 17)
    reduce = node("ReduceSum", "huge", "sum", keepdims=0)
    tail = [reduce, node("Add", "x sum", "y")]
    yield "64 GB of zeros", model([node("ConstantOfShape", "big", "huge"), *tail], [big])
    yield "64 GB by Expand", model([node("Expand", "one big", "huge"), *tail], [big, floats("one", 1)])
    many = ints("many", 1 << 34)
    yield "64 GB by Tile", model([node("Tile", "one many", "huge"), *tail], [many, floats("one", 1)])
    bounds = [floats("from", 0), floats("to", 1e10), floats("by", 1)]
    for tensor in bounds:
        tensor.ClearField("dims")
    yield "64 GB by Range", model([node("Range", "from to by", "huge"), *tail], bounds)
    pads = ints("pads", 0, 1 << 34)
    yield "64 GB by Pad", model([node("Pad", "one pads", "huge"), *tail], [pads, floats("one", 1)])
    yield "64 GB at random", model([node("RandomNormal", "", "huge", shape=[1 << 17, 1 << 17]), *tail])
    side = numpy_helper.from_array(np.ones((1 << 17, 1), np.float32), "side")
    flat = [node("Transpose", "side", "other"), node("MatMul", "side other", "huge")]
    yield "64 GB by MatMul", model([*flat, *tail], [side])
    yield "64 GB by broadcasting", model([flat[0], node("Add", "side other", "huge"), *tail], [side])
    doubling = [helper.make_node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(38)]
    one = floats("c0", 1)
    last = [node("ReduceSum", "c38", "sum", keepdims=0), node("Add", "x sum", "y")]
    yield "doubled 38 times", model([*doubling, *last], [one])
    yield (
        "64 GB by OneHot",
        model(
            [node("OneHot", "at big pair", "huge"), *tail],
            [ints("at", *range(64)), ints("big", 1 << 28), floats("pair", 0, 1)],
        ),
    )
    yield "endless Loop", _loop(1 << 60)
    yield "endless Loop in its constants", _loop(1 << 60, constant=True)
    yield "state of a billion", _recurrent(1 << 30)
    yield "state of a billion, declared", model(
        [node("Add", "h_in one", "h_out"), node("Tanh", "x", "y")], [floats("one", 1)],
        inputs=[info("x", "B", 7), info("h_in", "B", 1 << 30)],
        outputs=[info("y", "B", 7), info("h_out", "B", 1 << 30)],
    )  # fmt: skip
    yield "hidden state of 64 GB", _hidden_bomb()
    yield "hidden state doubled", _hidden_doubling()


def _loop(trips: int, constant: bool = False) -> bytes:
    """y = x + v, where v has been through a loop of so many trips; it begins as x, or as a constant."""
    ports = [info("i", kind=TensorProto.INT64), info("go", kind=TensorProto.BOOL), info("v", None, 7)]
    body = helper.make_graph(
        [node("Identity", "go", "on"), node("Tanh", "v", "w2")],
        "body", ports, [info("on", kind=TensorProto.BOOL), info("w2", None, 7)],
    )  # fmt: skip
    count = ints("count", trips)
    count.ClearField("dims")
    start = "w" if constant else "x"
    nodes = [
        helper.make_node("Loop", ["count", "yes", start], ["v_end"], body=body, name="the_Loop"),
        node("Add", "x v_end", "y"),
    ]
    yes = numpy_helper.from_array(np.array(True), "yes")
    return model(nodes, [count, yes, numpy_helper.from_array(np.ones((1, 7), np.float32), "w")])


def _recurrent(hidden: int, extra: Any = (), initial: str = "", more: Any = ()) -> bytes:
    rng = np.random.default_rng(0)
    w = numpy_helper.from_array(rng.normal(size=(1, 12, 7)).astype(np.float32), "W")
    r = numpy_helper.from_array(rng.normal(size=(1, 12, 4)).astype(np.float32), "R")
    inputs = ["x", "W", "R", "", "", *([initial] if initial else [])]
    nodes = [*extra, helper.make_node("GRU", inputs, ["Y"], name="the_GRU", hidden_size=hidden),
             node("Squeeze", "Y one", "y")]  # fmt: skip
    return model(
        nodes,
        [w, r, ints("one", 1), *more],
        inputs=[info("x", "T", "B", 7)],
        outputs=[info("y", "T", "B", 4)],
    )


def _hidden_bomb() -> bytes:
    return _recurrent(4, [node("ConstantOfShape", "shape", "h0")], "h0", [ints("shape", 1, 1 << 32, 4)])


def _hidden_doubling() -> bytes:
    doubling = [helper.make_node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=1) for i in range(38)]
    zeros = numpy_helper.from_array(np.zeros((1, 1, 4), np.float32), "c0")
    return _recurrent(4, doubling, "c38", [zeros])


def forms() -> Iterator[tuple[str, bytes]]:
    """Graphs that are not what they say, or never end on paper."""
    for name, dims in (
        ("sizes that multiply over", [1 << 40, 1 << 40]),
        ("sizes without numbers", [1 << 33]),
        ("a negative size", [-7]),
    ):
        tensor = floats("w", *range(7))
        tensor.ClearField("dims")
        tensor.dims.extend(dims)
        yield name, model(ADD, [tensor])
    yield (
        "200,000 nodes",
        model(
            [node("Identity", "x", "t0")]
            + [helper.make_node("Identity", [f"t{i}"], [f"t{i + 1}"]) for i in range(200_000)]
            + [node("Identity", "t200000", "y")]
        ),
    )
    yield (
        "functions of functions",
        model([helper.make_node("f0", ["x"], ["y"], domain="own")], functions=_functions(30)),
    )
    yield (
        "a function that calls itself",
        model(
            [helper.make_node("f0", ["x"], ["y"], domain="own")],
            functions=[_function("f0", [helper.make_node("f0", ["a"], ["b"], domain="own")])],
        ),
    )
    yield "150 graphs inside each other", _nested(150)
    sparse = helper.make_sparse_tensor(floats("w", 1.0), ints("w_at", 5), [1 << 33])
    made = onnx.load_from_string(model(ADD))
    made.graph.sparse_initializer.append(sparse)
    yield "sparse, 64 GB when filled", made.SerializeToString()
    yield "an unknown domain", model([helper.make_node("Run", ["x"], ["y"], domain="com.evil")])
    yield "an unknown operator", model([node("PyOp", "x", "y", module="os", class_name="system")])
    yield (
        "compiled code in a file",
        model(
            [
                helper.make_node(
                    "EPContext",
                    ["x"],
                    ["y"],
                    domain="com.microsoft",
                    ep_cache_context="/bin/true",
                    embed_mode=0,
                )
            ]
        ),
    )
    yield "a circle", model([node("Add", "x b", "a"), node("Tanh", "a", "b"), node("Tanh", "b", "y")])
    yield "no outputs", model(ADD, [floats("w", *range(7))])[:0] + _without_outputs()


def _without_outputs() -> bytes:
    made = onnx.load_from_string(model(ADD, [floats("w", *range(7))]))
    del made.graph.output[:]
    return made.SerializeToString()


def _function(name: str, nodes: Any) -> Any:
    return helper.make_function(
        "own", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    )


def _functions(depth: int) -> list[Any]:
    """f0 calls f1 twice, which calls f2 twice, ...: 2^depth nodes in a few lines."""
    made = [
        _function(
            f"f{i}",
            [
                helper.make_node(f"f{i + 1}", ["a"], ["m"], domain="own"),
                helper.make_node(f"f{i + 1}", ["m"], ["b"], domain="own"),
            ],
        )
        for i in range(depth)
    ]
    return [*made, _function(f"f{depth}", [node("Tanh", "a", "b")])]


def _nested(depth: int) -> bytes:
    """Written byte by byte, since no library makes a message as deep."""
    graph = helper.make_graph([node("Tanh", "x", "z")], "g", [], [info("z", "B", 7)]).SerializeToString()
    for i in range(depth):
        then = _field(1, b"then_branch") + _field(6, graph) + b"\xa0\x01\x05"
        other = helper.make_attribute("else_branch", _small(i)).SerializeToString()
        out = b"y" if i == depth - 1 else b"z%d" % i
        branch = _field(1, b"yes") + _field(2, out) + _field(4, b"If") + _field(5, then) + _field(5, other)
        graph = (
            _field(1, branch) + _field(2, b"g") + _field(12, info(out.decode(), "B", 7).SerializeToString())
        )
    yes = numpy_helper.from_array(np.array(True), "yes").SerializeToString()
    graph += _field(5, yes) + _field(11, info("x", "B", 7).SerializeToString())
    return b"\x08\x09" + _field(7, graph) + _field(8, helper.make_opsetid("", 18).SerializeToString())


def _field(number: int, data: bytes) -> bytes:
    """A field of a message as it is stored: key, length, bytes."""
    length, coded = len(data), bytearray([number << 3 | 2])
    while length > 127:
        coded.append(length & 127 | 128)
        length >>= 7
    return bytes(coded) + bytes([length]) + data


def _small(i: int) -> Any:
    return helper.make_graph([node("Tanh", "x", f"e{i}")], f"e{i}", [], [info(f"e{i}", "B", 7)])


def paths(folder: Path) -> Iterator[tuple[str, bytes, bool]]:
    """Weights said to lie elsewhere; the last is whether the option allows other files at all."""
    (folder / "inside").mkdir(exist_ok=True)
    secret = folder.parent / "canary.bin"
    secret.write_bytes(CANARY)
    for name, make in (("link.bin", os.symlink), ("hard.bin", os.link), ("linked", os.symlink)):
        target = folder.parent if name == "linked" else secret
        if not os.path.lexists(folder / name):
            make(target, folder / name)
    os.mkfifo(folder / "pipe.bin") if not (folder / "pipe.bin").exists() else None
    yield "external, not allowed", model(ADD, [external("w.bin")]), False
    locations = {
        "up": "../canary.bin",
        "up by a way round": "inside/../../canary.bin",
        "absolute": str(secret),
        "symbolic link": "link.bin",
        "hard link": "hard.bin",
        "linked folder": "linked/canary.bin",
        "device": "/dev/zero",
        "pipe": "pipe.bin",
        "backslashes": "..\\canary.bin",
        "not there": "nothing.bin",
        "itself": ".",
    }
    for name, location in locations.items():
        yield f"external, {name}", model(ADD, [external(location)]), True
    (folder / "w.bin").write_bytes(floats("w", *range(7)).raw_data)
    yield "external, beyond its end", model(ADD, [external("w.bin", offset=20, length=28)]), True
    yield "external, before its beginning", model(ADD, [external("w.bin", offset=-4, length=28)]), True
    yield (
        "external, in a constant",
        model([helper.make_node("Constant", [], ["w"], value=external("../canary.bin")), *ADD]),
        False,
    )
    inner = helper.make_graph(
        [node("Identity", "w", "z")], "then", [], [info("z", 7)], [external("../canary.bin")]
    )
    other = helper.make_graph([node("Tanh", "x", "e")], "else", [], [info("e", "B", 7)])
    nodes = [helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=other)]
    yield "external, in a branch", model(nodes, [numpy_helper.from_array(np.array(True), "yes")]), False


def twins(folder: Path) -> Iterator[tuple[str, bytes, bool]]:
    """What looks like the hostile ones and is harmless."""
    w = floats("w", *range(7))
    yield "a plain sum", model(ADD, [w]), False
    yield "weights in a file", model(ADD, [external("w.bin")]), True
    yield "weights in a part of a file", model(ADD, [external("w.bin", offset=0, length=28)]), True
    yield "few zeros", model([node("ConstantOfShape", "n", "w"), *ADD], [ints("n", 7)]), False
    yield "a short Loop", _loop(3), False
    yield "doubled three times", model(
        [helper.make_node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(3)]
        + [node("ReduceSum", "c3", "w", keepdims=0), *ADD], [floats("c0", 1)]
    ), False  # fmt: skip
    yield (
        "functions of functions, three deep",
        model([helper.make_node("f0", ["x"], ["y"], domain="own")], functions=_functions(3)),
        False,
    )
    yield "five graphs inside each other", _nested(5), False
    sparse = helper.make_sparse_tensor(floats("w", 1.0), ints("w_at", 5), [7])
    made = onnx.load_from_string(model(ADD))
    made.graph.sparse_initializer.append(sparse)
    yield "sparse, seven when filled", made.SerializeToString(), False
    yield "a GRU with hidden state", _recurrent(4), False
    zeros = [
        node("Shape", "x", "s"),
        node("Gather", "s at", "n"),
        node("Concat", "one n four", "shape", axis=0),
        node("ConstantOfShape", "shape", "h0"),
    ]
    yield (
        "a GRU with zeros of the input's size",
        _recurrent(4, zeros, "h0", [ints("at", 1), ints("four", 4)]),
        False,
    )


def files(folder: Path) -> Iterator[tuple[str, bytes, bool, bool]]:
    """Name, bytes, whether it is hostile, whether other files are allowed."""
    for makers in (formats, resources, forms):
        yield from ((name, data, True, False) for name, data in makers())
    yield from ((name, data, True, allowed) for name, data, allowed in paths(folder))
    yield from ((name, data, False, allowed) for name, data, allowed in twins(folder))


def load(folder: Path, data: bytes, allowed: bool) -> str:
    """`loaded`, or the reason why not."""
    from streamrnn_onnx import OnnxConfig
    from streamrnn_onnx.loading import build

    from streamrnn.backend import TensorSpec
    from streamrnn.context import Context
    from streamrnn.errors import StreamrnnError

    (folder / "m.onnx").write_bytes(data)
    config = OnnxConfig(path="m.onnx", external_data=allowed)
    try:
        built = build(config, {"x": TensorSpec("x", (7,), "float64")}, Context(base_dir=folder))
    except StreamrnnError as error:
        return str(error)
    state = {
        t.name: np.zeros((*t.shape[: t.batch_axis], 1, *t.shape[t.batch_axis :]), t.dtype)
        for t in built.state.tensors
    }
    y = built.step(state, {"x": np.zeros((1, 7), np.float32)})[1]["y"]
    return "read the canary" if np.isin(FLOATS, np.ravel(y)).any() else "loaded"


def main(folder: Path, pick: Callable[[str], bool] = lambda name: True) -> None:
    """Load every file in turn."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    os.chdir(folder)
    for name, data, hostile, allowed in files(folder):
        if not pick(name):
            continue
        start = time.perf_counter()
        outcome = load(folder, data, allowed)
        seconds = time.perf_counter() - start
        print(
            json.dumps({"name": name, "hostile": hostile, "outcome": outcome, "seconds": seconds}), flush=True
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), lambda name: len(sys.argv) < 3 or sys.argv[2] in name)
