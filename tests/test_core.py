"""What the core does beside what the property tests compare."""

from __future__ import annotations

import numpy as np
import pytest
from toys import Toy, formula_model

from streamrnn.backend import TensorSpec
from streamrnn.backends.formula import build
from streamrnn.backends.layers import build as build_layers
from streamrnn.builtins.formula import FormulaConfig
from streamrnn.builtins.numpy_layers import NumpyConfig
from streamrnn.context import Context
from streamrnn.core import Core
from streamrnn.core.wrap import Padded, WithContext
from streamrnn.errors import StateError
from streamrnn.events import Batch
from streamrnn.limits import Elapsed, Limits
from streamrnn.resets.rules import Every


def batch(keys, time=None, x=None):
    n = len(keys)
    x = np.ones((n, 2)) if x is None else np.array(x, np.float64)
    return Batch(list(keys), {"x": x}, None if time is None else np.array(time, np.int64))


def causes(core, outputs):
    return [
        [name for bit, name in enumerate(core.cause_names) if cause >> bit & 1]
        for cause in outputs.cause.tolist()
    ]


def test_elapsed_alone_in_a_scalar_input():
    given = {"x": TensorSpec("x", (1,), "float64")}
    model = build(FormulaConfig.model_validate({"output": {"y": "x"}}), given, Context())
    core = Core(model, elapsed=[Elapsed("x", 0, 0.001, first=-1)])
    outputs = core.process(batch("abaab", [0, 5, 1000, 1500, 2005], np.zeros(5)))
    assert outputs.y["y"].tolist() == [-1, -1, 1, 0.5, 2]


def test_its_input_is_never_written_to():
    core = Core(Toy(), elapsed=[Elapsed("x", 1, 1.0)])
    given = batch("aab", [1, 2, 3])
    given.inputs["x"].flags.writeable = False
    given.time.flags.writeable = False
    core.process(given)
    assert given.inputs["x"].tolist() == [[1, 1]] * 3


def test_the_oldest_key_makes_room_and_says_so_when_it_comes_back():
    core = Core(Toy(), limits=Limits(max_keys=2, remember_evicted=1))
    outputs = core.process(batch("abcaba"))
    assert causes(core, outputs) == [["new"], ["new"], ["new"], ["evicted"], ["evicted"], []]
    assert len(core) == 2


def test_a_key_that_was_forgotten_too_is_not_called_new():
    core = Core(Toy(), limits=Limits(max_keys=2, remember_evicted=1))
    assert causes(core, core.process(batch("abcda")))[3:] == [["new"], ["unknown"]]


def test_a_key_idle_for_too_long_starts_anew_whether_or_not_its_row_was_freed():
    for collected in (False, True):
        core = Core(Toy(), limits=Limits(idle=10))
        core.process(batch("ab", [0, 20]))
        if collected:
            core.expire(20)
            assert len(core) == 1
        outputs = core.process(batch("ab", [21, 22]))
        assert causes(core, outputs) == [["expired"], []]


def test_a_reset_behind_an_event_is_told_on_the_next_one():
    core = Core(Toy(), [Every("second", "initial", "after", 2)])
    outputs = core.process(batch("aaaa"))
    assert outputs.steps.tolist() == [1, 2, 1, 2]
    assert causes(core, outputs) == [["new"], [], ["second"], []]


def test_a_batch_of_nothing_is_answered_with_nothing():
    outputs = Core(Toy()).process(batch(""))
    assert (len(outputs), outputs.refused) == (0, {})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda blobs: [blobs[0][:-3], blobs[1]], "cannot be read"),
        (lambda blobs: [b""], "cannot be read"),
        (lambda blobs: blobs[::-1], "expected one base, then deltas"),
        (lambda blobs: [blobs[0], blobs[2], blobs[1]], "older than the one before"),
    ],
)
def test_damaged_or_misplaced_segments_are_refused(damage, told):
    core = Core(Toy())
    core.process(batch("ab"))
    blobs = [core.snapshot()]
    for keys in ("ac", "bd"):
        core.process(batch(keys))
        blobs.append(core.take_delta())
    with pytest.raises(StateError, match=told):
        Core(Toy()).restore(damage(blobs))


def test_state_of_another_model_or_other_rules_is_refused():
    core = Core(Toy())
    core.process(batch("ab"))
    with pytest.raises(StateError, match="of the model toy"):
        Core(formula_model(0)).restore([core.snapshot()])
    with pytest.raises(StateError, match="reset rules"):
        Core(Toy(), [Every("e", "initial", "before", 2)]).restore([core.snapshot()])


def test_a_core_that_has_served_is_not_overwritten():
    core = Core(Toy())
    core.process(batch("ab"))
    with pytest.raises(StateError, match="served nothing"):
        core.restore([core.snapshot()])


def test_a_delta_holds_only_the_blocks_of_rows_that_changed():
    core = Core(Toy())
    core.process(batch([f"k{i}" for i in range(2000)]))
    whole = core.snapshot()
    core.process(batch(["k7"]))
    assert len(core.take_delta()) < len(whole) / 10


RNN = {"weight_ih_l0": [[0.5, 0.1], [0.2, -0.3]], "weight_hh_l0": [[0.4, 0.3], [0.1, -0.2]]}


def layered(weights=RNN, limits=None, **options):
    layers = [{"type": "rnn", "hidden": 2, "weights": weights, "name": options.pop("name", "r")}]
    config = NumpyConfig.model_validate({"layers": layers, **options})
    return Core(build_layers(config, {"x": TensorSpec("x", (2,), "float64")}, Context()), limits=limits)


def test_state_of_the_same_model_goes_on_with_other_bits_and_says_so():
    first, x = layered(), np.random.default_rng(0).standard_normal((6, 2))
    first.process(batch("aabbab", x=x))
    snapshot = first.snapshot()
    first.process(batch("ab", x=x[:2]))
    delta = first.take_delta()
    assert layered().restore([snapshot, delta]) is None
    other = layered(tile_rows=8)
    assert "the same model under another backend or other options" in other.restore([snapshot, delta])
    found, expected = other.process(batch("ba", x=x[:2])), first.process(batch("ba", x=x[:2]))
    assert found.steps.tolist() == expected.steps.tolist() == [5, 5]
    assert found.y["y"] == pytest.approx(expected.y["y"], abs=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        {"weights": RNN | {"weight_hh_l0": [[0.4, 0.3], [0.1, -0.25]]}},
        {"weights": RNN | {"bias_ih_l0": [0.0, 0.0], "bias_hh_l0": [0.0, 0.0]}},
        {"name": "s"},
        {"dtype": "float64"},
    ],
    ids=["weights", "biases", "names", "types"],
)
def test_state_of_another_model_or_layout_is_refused(other):
    first = layered()
    first.process(batch("ab"))
    with pytest.raises(StateError, match="the state is of the model"):
        layered(**other).restore([first.snapshot()])


def test_a_context_is_part_of_what_a_state_means():
    model = layered().backend
    narrow, wide = (WithContext(model, {"x": 1}).state, model.state)
    assert (narrow.meaning, wide.meaning != "") == (wide.meaning + "+context=x:1", True)
    assert Padded(model, 4).state.meaning == wide.meaning
