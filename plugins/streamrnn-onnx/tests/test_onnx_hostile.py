"""No model file runs code, reads another file or takes the machine; and its harmless twin loads."""

import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx_graphs import cell, saved
from streamrnn_onnx import OnnxConfig
from streamrnn_onnx.loading import build, describe

from streamrnn.backend import TensorSpec
from streamrnn.context import Context
from streamrnn.errors import OptionError

SCRIPT = Path(__file__).parent / "onnx_hostile.py"
X = {"x": TensorSpec("x", (5,), "float64")}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the program's limit on its own memory is Linux's")
def test_hostile_files_are_refused_in_time_and_their_twins_load(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    hostile = [result for result in results if result["hostile"]]
    assert len(hostile) >= 50
    assert [r["name"] for r in hostile if r["outcome"] in ("loaded", "read the canary", "")] == []
    assert [(r["name"], r["seconds"]) for r in results if r["seconds"] > 5] == []
    twins = [result for result in results if not result["hostile"]]
    assert len(twins) >= 10
    assert [r for r in twins if r["outcome"] != "loaded"] == []
    assert not list(tmp_path.rglob("executed"))


def test_a_pinned_digest_must_be_that_of_the_file(tmp_path):
    saved(tmp_path, cell())
    with pytest.raises(
        OptionError, match=r"sha256: expected the digest of m\.onnx, which is [0-9a-f]{64}"
    ) as caught:
        describe(OnnxConfig(path="m.onnx", sha256="0" * 64), X, Context(base_dir=tmp_path))
    digest = str(caught.value)[-64:]
    assert build(OnnxConfig(path="m.onnx", sha256=digest), X, Context(base_dir=tmp_path)).inputs


def test_a_folder_and_a_large_file_are_refused_before_they_are_read(tmp_path):
    saved(tmp_path, cell())
    (tmp_path / "folder.onnx").mkdir()
    for options, text in (
        ({"path": "folder.onnx"}, "expected a file, found a folder, pipe or device"),
        ({"path": "m.onnx", "max_bytes": 100}, "expected at most max_bytes: 100"),
        ({"path": "nothing.onnx"}, "cannot read nothing.onnx: No such file"),
    ):
        with pytest.raises(OptionError, match=text):
            describe(OnnxConfig(**options), X, Context(base_dir=tmp_path))


def test_external_weights_decide_the_fingerprint(tmp_path):
    import onnx

    onnx.save_model(
        cell(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    config, context = OnnxConfig(path="m.onnx", external_data=True), Context(base_dir=tmp_path)
    before = build(config, X, context).state.fingerprint
    weights = np.fromfile(tmp_path / "w.bin", np.float32)
    weights[0] += 1
    weights.tofile(tmp_path / "w.bin")
    assert build(config, X, context).state.fingerprint != before


@pytest.mark.parametrize("kind", ["pickle", "zip"])
def test_the_numpy_backend_refuses_them_by_name_too(kind, tmp_path):
    from streamrnn.builtins.numpy_layers import NumpyConfig
    from streamrnn.layers.plan import describe as describe_layers

    data = pickle.dumps({"w": [1.0]})
    if kind == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("m/data.pkl", data)
        data = buffer.getvalue()
    (tmp_path / "m.pt").write_bytes(data)
    layers = [{"type": "gru", "hidden": 4, "weights": "gru"}]
    config = NumpyConfig.model_validate({"path": "m.pt", "layers": layers})
    expected = "a pickle, which can run code" if kind == "pickle" else "a zip archive"
    with pytest.raises(OptionError, match=expected):
        describe_layers(config, X, Context(base_dir=tmp_path))


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_as_long_as_a_pickle_begins_is_none(length):
    from streamrnn.layers.weights import read_header

    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    stored = length.to_bytes(8, "little") + header.ljust(length) + bytes(4)
    assert read_header(io.BytesIO(stored))["w"].shape == (1,)
