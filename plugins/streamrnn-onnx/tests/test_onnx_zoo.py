"""The zoo: nothing is wired wrongly, most without a word, and the page that says so is current."""

import pytest

pytest.importorskip("torch", reason="the zoo's exporters are torch's")
pytest.importorskip("onnxscript", reason="torch's new exporter needs it")

import onnx_zoo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def test_none_is_wrong_most_need_no_word_and_the_page_is_current():
    """One test, since the graphs are made and served but once."""
    results = [onnx_zoo.check(specimen) for specimen in onnx_zoo.specimens()]
    assert [(r.specimen.maker, r.specimen.name, r.wrong) for r in results if r.wrong] == []
    assert len(results) >= 110
    wired = [r for r in results if r.verdict != "refused"]
    assert len([r for r in wired if "state" not in r.specimen.options]) >= 70
    hint = "renew it with: python plugins/streamrnn-onnx/tests/onnx_zoo.py"
    assert onnx_zoo.PAGE.read_text() == onnx_zoo.page(results), hint
