"""The numpy backend: its description, its mistakes, its fingerprint and its limit on BLAS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file
from threadpoolctl import threadpool_info

from streamrnn.backend import TensorSpec
from streamrnn.backends.layers import NumpyBackend, build
from streamrnn.builtins.numpy_layers import COMPONENTS, NumpyConfig
from streamrnn.context import Context
from streamrnn.errors import ModelError, OptionError
from streamrnn.layers.plan import describe

Given = dict[str, TensorSpec]

X2: Given = {"x": TensorSpec("x", (2,), "float64")}
ID_AND_NUM: Given = {"id": TensorSpec("id", (2,), "int64"), "num": TensorSpec("num", (3,), "float64")}
TEXTBOOK: list[dict[str, Any]] = [
    {
        "type": "rnn",
        "hidden": 1,
        "activation": "identity",
        "weights": {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[2.0]]},
    },
    {"type": "linear", "out": 1, "weights": {"weight": [[-1]], "bias": [5]}},
]

FILE_SHAPES = {
    "gru.weight_ih_l0": (9, 2), "gru.weight_hh_l0": (9, 3), "gru.bias_ih_l0": (9,), "gru.bias_hh_l0": (9,),
    "rnn.weight_ih_l0": (4, 2), "rnn.weight_hh_l0": (4, 4),
    "rnn.weight_ih_l1": (4, 4), "rnn.weight_hh_l1": (4, 4),
    "half_biased.weight_ih_l0": (4, 2), "half_biased.weight_hh_l0": (4, 4), "half_biased.bias_ih_l0": (4,),
    "both_ways.weight_ih_l0": (4, 2), "both_ways.weight_hh_l0": (4, 4),
    "both_ways.weight_ih_l0_reverse": (4, 2), "both_ways.weight_hh_l0_reverse": (4, 4),
    "projected.weight_ih_l0": (8, 2), "projected.weight_hh_l0": (8, 1), "projected.weight_hr_l0": (1, 2),
    "wide.weight_ih_l0": (8, 11), "wide.weight_hh_l0": (8, 1), "wide.weight_hr_l0": (1, 2),
    "head.weight": (2, 3), "head.bias": (2,), "emb.weight": (5, 4),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    tensors = {name: rng.uniform(-0.5, 0.5, shape).astype(np.float32) for name, shape in FILE_SHAPES.items()}
    save_file({**tensors, "half.weight": np.zeros((2, 3), np.float16)}, path / "m.safetensors")
    return path


def load(options: dict[str, Any], given: Given, folder: Path = Path()) -> NumpyBackend:
    return build(NumpyConfig.model_validate(options), given, Context(base_dir=folder))


def zeros(backend: NumpyBackend, rows: int) -> dict[str, np.ndarray]:
    return {spec.name: np.zeros((rows, *spec.shape), spec.dtype) for spec in backend.state.tensors}


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    same = left.shape == right.shape and left.dtype == right.dtype
    return same and left.tobytes() == right.tobytes()


def test_textbook_model() -> None:
    backend = load({"layers": TEXTBOOK}, {"x": TensorSpec("x", (1,), "float64")})
    state = zeros(backend, 1)
    answers = []
    for value in (1.0, 2.0, 3.0):
        state, y = backend.step(state, {"x": np.array([[value]])})
        answers.append((state["rnn0.h0"].item(), y["y"].item()))
    assert answers == [(1.0, 4.0), (4.0, 1.0), (11.0, -6.0)]
    assert COMPONENTS[0].config is NumpyConfig


def test_description_of_a_stacked_model_with_embedding(folder: Path) -> None:
    layers = [
        {"type": "embedding", "of": "id", "weights": "emb"},
        {"type": "concat", "of": ["emb", "num"], "name": "both"},
        {"type": "lstm", "hidden": 2, "proj": 1, "name": "r", "weights": "wide"},
    ]
    options = {"path": "m.safetensors", "layers": layers, "outputs": {"out": "r", "joined": "both"}}
    description = describe(NumpyConfig.model_validate(options), ID_AND_NUM, Context(base_dir=folder))
    assert [(spec.name, spec.shape, spec.dtype) for spec in description.inputs] == [
        ("id", (2,), "int64"),
        ("num", (3,), "float32"),
    ]
    assert [(spec.name, spec.shape, spec.dtype) for spec in description.outputs] == [
        ("out", (1,), "float32"),
        ("joined", (11,), "float32"),
    ]
    assert [(spec.name, spec.shape, spec.initial) for spec in description.state.tensors] == [
        ("r.h0", (1,), 0.0),
        ("r.c0", (2,), 0.0),
    ]
    assert description.state.fingerprint == ""
    backend = load(options, ID_AND_NUM, folder)
    assert (backend.inputs, backend.outputs) == (description.inputs, description.outputs)
    assert backend.state.tensors == description.state.tensors


def test_describe_needs_no_numpy(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from streamrnn.backend import TensorSpec\n"
        "from streamrnn.builtins.numpy_layers import NumpyConfig; from streamrnn.context import Context\n"
        "from streamrnn.layers.plan import describe\n"
        "layers = [{'type': 'rnn', 'hidden': 4, 'layers': 2, 'weights': 'rnn'}]\n"
        "config = NumpyConfig.model_validate({'path': 'm.safetensors', 'layers': layers})\n"
        "context = Context(base_dir=Path(sys.argv[1]))\n"
        "describe(config, {'x': TensorSpec('x', (2,), 'float64')}, context)\n"
        "print([name for name in ('numpy', 'safetensors', 'threadpoolctl') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path.cwd(),
    )
    assert done.stdout.strip() == "[]"


GRU = {"type": "gru", "hidden": 3, "weights": "gru"}
HEAD = {"type": "linear", "out": 2, "weights": "head"}
RNN = {"type": "rnn", "hidden": 4, "layers": 2, "weights": "rnn"}
INLINE_HEAD = {"weight": [[1.0, 2.0]]}

MISTAKES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], tuple[str | int, ...], str]] = {
    "unknown prefix": ([{**GRU, "weights": "gro"}], {}, ("layers", 0, "weights"), "did you mean 'gru'?"),
    "input width": ([{**GRU, "hidden": 4}], {}, ("layers", 0, "weights"),
        "gru.weight_ih_l0: expected [12, 2] (3 x hidden 4, input 2), found [9, 2]; the input is 'x'"),
    "wrong out": ([GRU, {**HEAD, "out": 5}], {}, ("layers", 1, "weights"),
        "head.weight: expected [5, 3] (out 5, input 3), found [2, 3]; the input is 'gru'"),
    "fewer layers in the file": ([{**RNN, "layers": 3}], {}, ("layers", 0, "weights"),
        "rnn.weight_ih_l2: missing; found weight_hh_l0"),
    "more layers in the file": ([{**RNN, "layers": 1}], {}, ("layers", 0, "weights"),
        "rnn.weight_ih_l1: found beyond `layers: 1`"),
    "half the biases": (
        [{"type": "rnn", "hidden": 4, "weights": "half_biased"}], {},
        ("layers", 0, "weights"), "half_biased.bias_hh_l0: missing",
    ),
    "bidirectional": ([{**GRU, "bidirectional": True}], {}, ("layers", 0, "bidirectional"),
        "a backward pass starts at the end of the stream"),
    "reverse weights": ([{"type": "rnn", "hidden": 4, "weights": "both_ways"}], {}, ("layers", 0, "weights"),
        "both_ways.weight_ih_l0_reverse: a bidirectional model: a backward pass"),
    "projection not declared": (
        [{"type": "lstm", "hidden": 2, "weights": "projected"}], {},
        ("layers", 0, "weights"), "projected.weight_hr_l0: a projection; set `proj`",
    ),
    "projection too wide": (
        [{"type": "lstm", "hidden": 2, "proj": 2, "weights": "projected"}], {},
        ("layers", 0, "proj"), "expected less than hidden 2, found 2",
    ),
    "half precision": ([GRU, {**HEAD, "weights": "half"}], {}, ("layers", 1, "weights"),
        "half.weight: expected F32 or F64, found F16; convert it to F32"),
    "unknown source": ([GRU, {**HEAD, "of": "gruu"}], {}, ("layers", 1, "of"),
        "expected a model input or an earlier layer (x, gru), found 'gruu'; did you mean 'gru'?"),
    "unknown source in concat": ([GRU, {"type": "concat", "of": ["gru", "y"]}], {}, ("layers", 1, "of", 1),
        "found 'y'"),
    "later layer": ([{**GRU, "of": "head"}, HEAD], {}, ("layers", 0, "of"),
        "an earlier layer (x), found 'head'"),
    "embedding of numbers": ([{"type": "embedding", "weights": "emb"}], {}, ("layers", 0),
        "expected indices, found 'x', which is numbers"),
    "same name": ([GRU, {**HEAD, "name": "gru"}], {}, ("layers", 1, "name"), "already that of layer 0"),
    "name of an input": ([{**GRU, "name": "x"}], {}, ("layers", 0, "name"), "already that of an input"),
    "unread layer": ([GRU, {**RNN, "of": "x"}], {}, ("layers", 0), "nothing reads this layer ('gru')"),
    "unknown output": ([GRU], {"outputs": {"y": "gur"}}, ("outputs", "y"),
        "expected a layer (gru), found 'gur'; did you mean 'gru'?"),
    "no file": ([GRU], {"path": None}, ("layers", 0, "weights"), "there is no `path`; name the file"),
    "missing file": ([GRU], {"path": "n.safetensors"}, ("path",), "cannot read n.safetensors"),
    "file for nothing": ([{"type": "linear", "out": 1, "weights": INLINE_HEAD}], {}, ("path",),
        "no layer reads this file"),
    "unknown inline name": (
        [{"type": "linear", "out": 1, "weights": {**INLINE_HEAD, "bais": [1.0]}}], {"path": None},
        ("layers", 0, "weights", "bais"), "expected weight, bias, found 'bais'; did you mean 'bias'?",
    ),
    "inline shape": (
        [{"type": "linear", "out": 1, "weights": {"weight": [[1.0]]}}], {"path": None},
        ("layers", 0, "weights", "weight"),
        "weight: expected [1, 2] (out 1, input 2), found [1, 1]; the input is 'x'",
    ),
    "ragged inline": (
        [{"type": "linear", "out": 2, "weights": {"weight": [[1.0, 2.0], [1.0]]}}], {"path": None},
        ("layers", 0, "weights", "weight"), "found lists of different lengths",
    ),
    "inline word": (
        [{"type": "linear", "out": 1, "weights": {"weight": [[1.0, "2"]]}}], {"path": None},
        ("layers", 0, "weights", "weight"), "found '2'",
    ),
    "inline infinity": (
        [{"type": "linear", "out": 1, "weights": {"weight": [[1.0, float("inf")]]}}], {"path": None},
        ("layers", 0, "weights", "weight"), "found inf",
    ),
    "inline beyond float": (
        [{"type": "linear", "out": 1, "weights": {"weight": [[1.0, 10**400]]}}], {"path": None},
        ("layers", 0, "weights", "weight"), "too large",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("where", "options"),
    [
        ("layers.0.gru.hiden", {"layers": [{**GRU, "hiden": 3}]}),
        ("layers.0.gru.hidden", {"layers": [{**GRU, "hidden": 0}]}),
        ("layers.0.gru.hidden", {"layers": [{**GRU, "hidden": True}]}),
        ("layers.0.linear.activation", {"layers": [{**HEAD, "activation": "swish"}]}),
        ("layers.0", {"layers": [{"type": "transformer"}]}),
        ("layers", {"layers": []}),
        ("tile_rows", {"layers": [GRU], "tile_rows": 16}),
        ("dtype", {"layers": [GRU], "dtype": "float16"}),
    ],
)
def test_options_are_strict(where: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        NumpyConfig.model_validate(options)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == where


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_say_where_and_what(name: str, folder: Path) -> None:
    layers, more, path, message = MISTAKES[name]
    config = NumpyConfig.model_validate({"path": "m.safetensors", "layers": layers, **more})
    for check in (describe, build):
        with pytest.raises(OptionError) as caught:
            check(config, X2, Context(base_dir=folder))
        assert any(path == where and message in text for where, text in caught.value.problems), caught.value


@pytest.mark.parametrize(
    ("layer", "path", "message"),
    [
        (
            {"type": "rnn", "hidden": 4, "weights": "rnn"},
            ("layers", 0),
            "expected `of`, since there are several",
        ),
        (
            {"type": "linear", "of": "id", "out": 1, "weights": "head"},
            ("layers", 0, "of"),
            "put an `embedding`",
        ),
        ({"type": "embedding", "of": "id", "weights": "emb"}, ("layers",), "no layer reads the input 'num'"),
    ],
)
def test_mistakes_with_several_inputs(
    folder: Path, layer: dict[str, Any], path: tuple[str | int, ...], message: str
) -> None:
    config = NumpyConfig.model_validate({"path": "m.safetensors", "layers": [layer]})
    with pytest.raises(OptionError) as caught:
        describe(config, ID_AND_NUM, Context(base_dir=folder))
    assert any(path == where and message in text for where, text in caught.value.problems), caught.value


def test_all_mistakes_come_at_once(folder: Path) -> None:
    layers = [{**GRU, "weights": "gro"}, {**HEAD, "of": "nothing"}, {**RNN, "of": "x", "bidirectional": True}]
    config = NumpyConfig.model_validate({"path": "m.safetensors", "layers": layers})
    with pytest.raises(OptionError) as caught:
        describe(config, X2, Context(base_dir=folder))
    assert [path for path, _ in caught.value.problems] == [
        ("layers", 0, "weights"),
        ("layers", 1, "of"),
        ("layers", 2, "bidirectional"),
    ]


def _file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found 0 bytes"),
        (_file({}, length=1 << 62), "header length of 4611686018427387904"),
        (_file(b"{"), "not JSON"),
        (_file(b"[" * 100_000), "not JSON"),
        (_file(b"[]"), "not an object"),
        (_file(b'{"a": 1, "a": 2}'), "a name occurs twice"),
        (_file({"a": {"dtype": "F32"}}), "a: expected dtype, shape and data_offsets"),
        (_file({"a": {**ONE, "shape": [-1]}}), "a: expected dtype, shape and data_offsets"),
        (
            _file({"a": {**ONE, "shape": [2]}}, bytes(4)),
            "a: expected 8 bytes (F32 [2]), found offsets 0 to 4",
        ),
        (_file({"a": {**ONE, "data_offsets": [4, 8]}}, bytes(8)), "a gap or overlap"),
        (_file({"a": ONE, "b": ONE}, bytes(4)), "a gap or overlap"),
        (_file({"a": ONE}, bytes(3)), "it is damaged or cut short"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    config = NumpyConfig.model_validate({"path": "m.safetensors", "layers": [GRU]})
    with pytest.raises(OptionError) as caught:
        describe(config, X2, Context(base_dir=tmp_path))
    [(path, text)] = caught.value.problems
    assert path == ("path",)
    assert message in text


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save_file({"head.weight": np.array([[1.0, 1e300]])}, tmp_path / "m.safetensors")
    layers = [{"type": "linear", "out": 1, "weights": "head"}]
    with pytest.raises(ModelError, match=r"head\.weight: expected finite float32 numbers"):
        load({"path": "m.safetensors", "layers": layers}, X2, tmp_path)
    assert load({"path": "m.safetensors", "layers": layers, "dtype": "float64"}, X2, tmp_path)


def test_fingerprint_follows_everything_that_matters(folder: Path) -> None:
    def digest(**more: Any) -> str:
        options = {"path": "m.safetensors", "layers": [GRU, HEAD], **more}
        return load(options, X2, folder).state.fingerprint

    others = [
        {"tile_rows": 8},
        {"dtype": "float64"},
        {"layers": [{**GRU, "reset_after": False}, HEAD]},
        {"layers": [GRU, {**HEAD, "activation": "softmax"}]},
        {"layers": [GRU, {**HEAD, "weights": {"weight": [[0.0] * 3] * 2}}]},
    ]
    digests = [digest(), *(digest(**more) for more in others)]
    assert digest() == digests[0]
    assert len(set(digests)) == len(digests)


def test_open_holds_blas_at_one_thread_until_the_last_close() -> None:
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    one = {"x": TensorSpec("x", (1,), "float64")}
    before = threads()
    first, second = load({"layers": TEXTBOOK}, one), load({"layers": TEXTBOOK}, one)
    first.open(threads=2)
    second.open()
    first.close()
    first.close()
    assert threads() == {1}
    second.close()
    assert threads() == before
    with pytest.raises(ModelError, match="device 'cpu', found 'cuda'"):
        first.open("cuda")


def test_index_without_a_row_is_refused(folder: Path) -> None:
    given = {"id": ID_AND_NUM["id"]}
    options = {"path": "m.safetensors", "layers": [{"type": "embedding", "weights": "emb"}]}
    backend = load(options, given, folder)
    for wrong in (5, -1):
        x = np.array([[0, 4], [wrong, 0]])
        with pytest.raises(ModelError, match=rf"expected indices from 0 to 4, found {wrong} in 'id'"):
            backend.step({}, {"id": x})
        _, y, _ = backend.scan({}, {"id": x.reshape(1, 2, 2)}, np.array([1]))
        assert same_bits(y["y"][0, :1], backend.step({}, {"id": x[:1]})[1]["y"])


def test_bad_at_sees_outputs_that_overflow() -> None:
    layers = [TEXTBOOK[0], {"type": "linear", "out": 1, "weights": {"weight": [[3e38]]}}]
    backend = load({"layers": layers}, {"x": TensorSpec("x", (1,), "float64")})
    x = np.array([[[0.5], [0.5], [0.0]], [[0.5], [-1.0], [9.0]]], np.float32)
    _, _, bad_at = backend.scan(zeros(backend, 2), {"x": x}, np.array([3, 2]))
    assert bad_at.tolist() == [1, -1]
