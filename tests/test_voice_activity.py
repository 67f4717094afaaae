"""Voice activity over telephone lines that take turns: the probabilities of the vendor's own wrapper."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the model is an ONNX file")

from streamrnn.config.open import open_pipeline
from streamrnn.testing import quiet_context, run_pipeline

PIPELINES = Path(__file__).parent.parent / "pipelines"
sys.path.insert(0, str(PIPELINES))

import prepare_voice  # noqa: E402

FILES = {
    "silero_vad.onnx": {"constants": {"sr": 16000}},
    "silero_vad_16k_op15.onnx": {"constants": {"sr": 16000}},
    "silero_vad_op18_ifless.onnx": {"constants": {"sr": 16000}},
    "silero_vad_openvino_16k.onnx": {},
    "silero_vad_16k_sequence.onnx": {},
}


@pytest.fixture(scope="module")
def events():
    return list(prepare_voice.events(lines=3, seconds=1.5, seed=1))


@pytest.fixture(scope="module")
def probabilities(events):
    """By the vendor's wrapper, one call after the other: {call: [chunks]}."""
    package = pytest.importorskip("silero_vad", reason="its wrapper is the oracle")
    pytest.importorskip("torch")
    import torch

    path = Path(package.__file__).parent / "data" / "silero_vad_16k_op15.onnx"
    with pytest.warns(UserWarning, match="only 16000"):
        wrapper = package.utils_vad.OnnxWrapper(str(path), force_onnx_cpu=True)
    answers = {}
    ordered = sorted(events, key=lambda event: event["call"])
    for call, chunks in itertools.groupby(ordered, key=lambda event: event["call"]):
        wrapper.reset_states()
        samples = [torch.tensor(chunk["samples"], dtype=torch.float32) for chunk in chunks]
        answers[call] = [wrapper(one, 16000).item() for one in samples]
    return answers


def served(events, text, folder):
    """{call: [chunks]} by the pipeline."""
    outputs, rejected = run_pipeline(text, events, context=quiet_context(base_dir=folder))
    assert not rejected
    found = {}
    for output in outputs:
        found.setdefault(output["call"], []).append(np.ravel(output["speech"])[0])
    return found


def pipeline(limit, **model):
    text = (PIPELINES / "voice_activity.yaml").read_text().partition("\ntests:")[0]
    limits = f"limits: {{max_batch_events: {limit}}}"
    text = text.replace("limits: {max_keys: 10000}", limits)
    if model:
        start, _, rest = text.partition("model:\n")
        chosen = {"type": "onnx", "context": {"input": 64}, **model}
        text = f"{start}model: {json.dumps(chosen)}\nencode:{rest.partition('encode:')[2]}"
    return text


def test_every_chunk_has_the_vendors_probability_whatever_the_batch(events, probabilities):
    found = [served(events, pipeline(limit), PIPELINES) for limit in (1, 7, 64)]
    assert found[0] == found[1] == found[2]
    assert found[0].keys() == probabilities.keys()
    for call, expected in probabilities.items():
        np.testing.assert_allclose(found[0][call], expected, atol=1e-4)
    spoken = np.concatenate(list(probabilities.values()))
    assert 0.1 < (spoken > 0.5).mean() < 0.95, "the calls hold speech and pauses"


@pytest.mark.parametrize("name", FILES)
def test_each_signature_of_the_network_is_understood(name, events, probabilities):
    import silero_vad

    folder = Path(silero_vad.__file__).parent / "data"
    output = "speech_probs" if "sequence" in name else "output"
    text = pipeline(64, path=name, **FILES[name]).replace("output: output", f"output: {output}")
    found = served(events, text, folder)
    for call, expected in probabilities.items():
        np.testing.assert_allclose(found[call], expected, atol=1e-4)


def test_its_model_is_the_one_that_the_script_fetches():
    spec, _, _ = open_pipeline(str(PIPELINES / "voice_activity.yaml"))
    assert spec.model.options.sha256 == prepare_voice.DIGEST
