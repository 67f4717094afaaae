"""`verify`: equal where it should be, and every planted mistake found and named."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import BaseModel
from safetensors.numpy import load_file, save_file

from streamrnn.backend import TensorSpec
from streamrnn.cli.verify import command
from streamrnn.config.open import open_pipeline
from streamrnn.hookspecs import Component, hookimpl
from streamrnn.offline import GateOrder, Offline, gate_orders
from streamrnn.registry import Registry
from streamrnn.verify.verify import verify

ROOT = Path(__file__).parents[1]
PIPELINES, DOCS = ROOT / "pipelines", ROOT / "docs" / "verify.md"
HEAD = """
source: {type: file, path: data.jsonl}
decode: {type: jsonl}
event:
  key: user
  time: {field: ts, unit: s}
  inputs:
    x:
      - {field: a}
      - {field: b, standardize: {mean: [3], std: [2]}}
      - {field: kind, one_hot: [p, q]}
      - {elapsed: min}
reset:
  - {type: on_change, field: session}
  - {type: gap, gap_s: 50}
"""
TAIL = """
encode: {type: jsonl}
sink: {type: file, path: never_written.jsonl}
dead_letter: {path: never_written_either.jsonl}
"""
A, B, KIND = (line + "\n" for line in HEAD.splitlines() if line.strip().startswith("- {field: "))
LAYERS = {
    "lstm": "[{type: lstm, hidden: 5, layers: 2, weights: rnn}, {type: linear, out: 3, weights: head}]",
    "gru": "[{type: gru, hidden: 6, weights: rnn}, {type: linear, out: 3, weights: head}]",
    "rnn": "[{type: rnn, hidden: 6, weights: rnn}, {type: linear, out: 3, weights: head}]",
}
SHAPES = {"lstm": (4, 5, 2), "gru": (3, 6, 1), "rnn": (1, 6, 1)}


def weights(kind):
    gates, hidden, layers = SHAPES[kind]
    rng, found, width = np.random.default_rng(3), {}, 5
    for k in range(layers):
        for name, shape in (("weight_ih", (gates * hidden, width)), ("weight_hh", (gates * hidden, hidden))):
            found[f"rnn.{name}_l{k}"] = rng.normal(size=shape).astype(np.float32)
        for name in ("bias_ih", "bias_hh"):
            found[f"rnn.{name}_l{k}"] = rng.normal(size=gates * hidden).astype(np.float32)
        width = hidden
    found["head.weight"] = rng.normal(size=(3, hidden)).astype(np.float32)
    return found


@pytest.fixture(params=LAYERS)
def kind(request):
    return request.param


@pytest.fixture
def folder(tmp_path, kind):
    return make(tmp_path, kind)


def make(folder, kind, seed=1):
    """A model, 400 events of six users, some of which are refused, and the file `good.yaml`."""
    save_file(weights(kind), folder / "m.safetensors")
    rng, lines, ts = random.Random(seed), [], 0
    session = dict.fromkeys(range(6), 0)
    for _ in range(400):
        user = rng.choice([0, 0, 0, 1, 2, 3, 4, 5])
        ts += rng.choice([0, 1, 5])
        session[user] += rng.random() < 0.1
        event = {"user": user, "ts": ts, "session": session[user], "a": rng.gauss(0, 1), "b": rng.gauss(3, 2)}
        event["kind"] = rng.choice("ppqqx" if rng.random() < 0.1 else "pq")
        lines.append(json.dumps(event))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    write(folder, kind, "good.yaml")
    return folder


def write(folder, kind, name, *changes, model="m.safetensors"):
    """A pipeline file with some of its text replaced."""
    text = f"{HEAD}\nmodel: {{type: numpy, path: {model}, layers: {LAYERS[kind]}}}\n{TAIL}"
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / name).write_text(text)
    return folder / name


def run(*arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def differs(live, reference):
    code, out = run(live, "--against", reference)
    assert code == 1, out
    assert out.startswith("different: ")
    assert "first: key '" in out
    return out


def causes(out):
    return [line.strip().removeprefix("cause: ") for line in out.splitlines() if line.startswith("  cause: ")]


def test_a_pipeline_is_equal_to_its_own_model_alone(folder):
    code, out = run(folder / "good.yaml")
    assert code == 0
    assert out.startswith("equal: ")
    assert " of 6 keys, largest distance " in out
    assert sorted(path.name for path in folder.iterdir()) == ["data.jsonl", "good.yaml", "m.safetensors"]


def test_the_example_pipelines_are_equal_to_their_models():
    for name in ("flights_delay", "flights_mean", "flights_day_sum", "next_letter"):
        assert run(PIPELINES / f"{name}.yaml", "--events", 1500)[0] == 0


MISTAKES = {
    "a reset dropped": (
        ("  - {type: on_change, field: session}\n", ""),
        "a reset is missing: ",
        "'on_change' (on_change, ",
    ),
    "a reset with another bound": (("gap_s: 50", "gap_s: 500"), "a reset is missing: ", "'gap' (gap, "),
    "a reset too many": (
        ("  - {type: gap", "  - {type: every, events: 7}\n  - {type: gap"),
        "a reset too many: ",
        "'every' (every, ",
    ),
    "features swapped": (
        (A + B, B + A),
        "feature order: 'b' (x[0]) and 'a' (x[1]) stand in each other's place",
        "",
    ),
    "a feature moved": (
        (A + B + KIND, B + KIND + A),
        "feature order: columns 0 to 3 of 'x' must be, in the reference's order: 'a' (x[3]), 'b' (x[0]), "
        "'kind: p' (x[1]), 'kind: q' (x[2])",
        "",
    ),
    "values of a one-hot swapped": (("[p, q]", "[q, p]"), "feature order: 'kind: q' (x[2]) and", ""),
    "a scale forgotten": (
        (", standardize: {mean: [3], std: [2]}", ""),
        "feature 'b' (x[1]): scaling: the reference has 0.5 times the live value minus 1.5",
        "",
    ),
    "a unit of time": (
        ("elapsed: min", "elapsed: s"),
        "feature 'elapsed' (x[4]): scaling: the reference has 0.0166667 times the live value",
        "",
    ),
    "a function forgotten": (
        ("{elapsed: min}", "{elapsed: min, then: [log1p]}"),
        "feature 'elapsed' (x[4]): scaling: live has log1p of the reference's value",
        "",
    ),
    "another key": (("key: user", "key: [user, kind]"), "keys: ", "compare event.key"),
    "state of fewer keys": (
        ("encode:", "limits: {max_keys: 2}\nencode:"),
        "a reset too many: ",
        "limits, or a key seen first",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("kind", ["gru"], indirect=True)
def test_a_mistake_in_the_pipeline_file_is_named(folder, kind, name):
    change, begin, part = MISTAKES[name]
    out = differs(write(folder, kind, "live.yaml", change), folder / "good.yaml")
    (cause,) = causes(out)
    assert cause.startswith(begin)
    assert part in cause
    assert "the reference's model gives the live answers" in out


@pytest.mark.parametrize("kind", ["lstm"], indirect=True)
def test_several_mistakes_are_all_named(folder, kind):
    live = write(
        folder,
        kind,
        "live.yaml",
        ("gap_s: 50", "gap_s: 500"),
        ("mean: [3]", "mean: [2]"),
        ("[p, q]", "[q, p]"),
    )
    found = causes(differs(live, folder / "good.yaml"))
    assert [cause.split(":")[0] for cause in found] == [
        "a reset is missing",
        "feature order",
        "feature 'b' (x[1])",
    ]


PLANTED = {
    "a reset is missing": ("gap_s: 50", "gap_s: 500"),
    "feature order": ("[p, q]", "[q, p]"),
    "feature 'b' (x[1])": ("mean: [3]", "mean: [1]"),
    "feature 'elapsed' (x[4])": ("elapsed: min", "elapsed: s"),
}


@pytest.mark.parametrize("seed", range(12))
def test_any_mix_of_mistakes_is_found_and_nothing_else(tmp_path, seed):
    rng = random.Random(seed)
    kind = rng.choice(["lstm", "gru"])
    folder = make(tmp_path, kind, seed)
    planted = [name for name in PLANTED if rng.random() < 0.5]
    order = rng.choice([None, *gate_orders("ifgo" if kind == "lstm" else "rzn")])
    model = "m.safetensors" if order is None else rearranged(folder, order, (0, 1))
    live = write(folder, kind, "live.yaml", *(PLANTED[name] for name in planted), model=model)
    code, out = run(live, "--against", folder / "good.yaml")
    assert code == (1 if planted or order else 0)
    wanted = [*planted, *(["gate order"] if order else [])]
    assert [cause.split(":")[0] for cause in causes(out)] == wanted
    assert order is None or order.text("'rnn'") in out


@pytest.mark.parametrize("kind", ["lstm"], indirect=True)
def test_events_that_one_side_refuses_are_told(folder, kind):
    live = write(folder, kind, "live.yaml", ("one_hot: [p, q]", "one_hot: [p, q], unknown: zeros"))
    (cause, *_) = causes(differs(live, folder / "good.yaml"))
    assert cause.startswith("refusals: live serves ")
    assert "kind: expected one of the 2 known values" in cause


def rearranged(folder, order: GateOrder, cells=(0,)):
    """The model with the gates of some cells stored in another order than they are read."""
    found = load_file(folder / "m.safetensors")
    for name, array in found.items():
        if name.startswith("rnn.") and int(name[-1]) in cells:
            blocks = array.reshape(len(order.read), -1)
            found[name] = (
                blocks[[order.read.index(gate) for gate in order.stored]].reshape(array.shape).copy()
            )
    save_file(found, folder / "other.safetensors")
    return "other.safetensors"


GATES = [*gate_orders("ifgo"), *gate_orders("rzn")]


@pytest.mark.parametrize("order", GATES, ids=lambda order: "".join(order.stored))
def test_a_wrong_gate_order_is_named(tmp_path, order):
    kind = "lstm" if len(order.read) == 4 else "gru"
    folder = make(tmp_path, kind)
    live = write(folder, kind, "live.yaml", model=rearranged(folder, order, (0, 1)))
    (cause,) = causes(differs(live, folder / "good.yaml"))
    assert cause.startswith(order.text("'rnn'") + ", in the live model; ")


@pytest.mark.parametrize("kind", ["lstm", "gru"], indirect=True)
def test_a_wrong_gate_order_in_the_reference_is_named_too(folder, kind):
    order = next(gate_orders("ifgo" if kind == "lstm" else "rzn"))
    other = write(folder, kind, "other.yaml", model=rearranged(folder, order, (0, 1)))
    (cause,) = causes(differs(folder / "good.yaml", other))
    assert cause.startswith("gate order: the weights of 'rnn' have their gates as ")


@pytest.mark.parametrize("order", [*gate_orders("ifgo")][:2], ids=lambda order: "".join(order.stored))
def test_a_single_cell_is_named(tmp_path, order):
    folder = make(tmp_path, "lstm")
    live = write(folder, "lstm", "live.yaml", model=rearranged(folder, order, (1,)))
    (cause,) = causes(differs(live, folder / "good.yaml"))
    assert cause.startswith(order.text("'rnn', cell 1,"))


def changed(folder, change):
    """The model with its weights changed in place by a function."""
    found = load_file(folder / "m.safetensors")
    change(found)
    save_file(
        {name: np.ascontiguousarray(array) for name, array in found.items()}, folder / "other.safetensors"
    )
    return "other.safetensors"


def test_the_other_gru_is_named(tmp_path):
    folder = make(tmp_path, "gru")
    other = ("{type: gru, ", "{type: gru, reset_after: false, ")
    (cause,) = causes(differs(write(folder, "gru", "live.yaml", other), folder / "good.yaml"))
    assert cause.startswith(
        "reset gate: 'rnn' needs the other value of reset_after, in the live model; this explains all of it"
    )


def test_an_update_gate_of_the_other_sense_is_named(tmp_path):
    folder = make(tmp_path, "gru")

    def negate(found):
        for name in found:
            if name.startswith("rnn."):
                found[name][6:12] *= -1

    live = write(folder, "gru", "live.yaml", model=changed(folder, negate))
    (cause,) = causes(differs(live, folder / "good.yaml"))
    assert cause.startswith("update gate: that of 'rnn' lets the new state in")


ORDERS = {
    (1, 0, 2, 3, 4): "'a' and 'b' in each other's place",
    (1, 2, 3, 0, 4): "'a' in place 3 instead of 0",
    (4, 3, 2, 1, 0): "all columns backwards",
}


@pytest.mark.parametrize("order", ORDERS, ids=ORDERS.get)
def test_a_feature_order_in_the_weights_is_named(folder, kind, order):
    def move(found):
        found["rnn.weight_ih_l0"] = found["rnn.weight_ih_l0"][:, order]

    live = write(folder, kind, "live.yaml", model=changed(folder, move))
    (cause,) = causes(differs(live, folder / "good.yaml"))
    assert cause.startswith(f"feature order: the live model reads {ORDERS[order]}; this explains all of it")


def test_weights_of_another_training_fit_nothing(folder, kind):
    def train(found):
        found["rnn.weight_hh_l0"] += 0.01

    live = write(folder, kind, "live.yaml", model=changed(folder, train))
    out = differs(live, folder / "good.yaml")
    assert causes(out) == []
    assert "note:  the models differ, and none of " in out


@pytest.mark.parametrize("kind", ["lstm"], indirect=True)
def test_a_mistake_in_the_file_and_one_in_the_weights(folder, kind):
    model = rearranged(folder, next(gate_orders("ifgo")), (0, 1))
    live = write(folder, kind, "live.yaml", ("gap_s: 50", "gap_s: 500"), ("[p, q]", "[q, p]"), model=model)
    found = causes(differs(live, folder / "good.yaml"))
    assert [cause.split(":")[0] for cause in found] == ["a reset is missing", "feature order", "gate order"]


CONTEXT = """
model:
  type: numpy
  context: {x: 4}
  layers: [{type: linear, out: 1, weights: {weight: [[1, 2, 3, 4, 5, 6, 7, 8, 9]]}}]
"""


@pytest.mark.parametrize("kind", ["rnn"], indirect=True)
def test_the_context_of_an_input_is_part_of_its_sequence(folder, kind):
    text = (folder / "good.yaml").read_text()
    start, stop = text.index("model:"), text.index("encode:")
    live = folder / "live.yaml"
    live.write_text(text[:start] + CONTEXT + text[stop:])
    assert run(live)[0] == 0
    fewer = live.read_text().replace("on_change, field: session", "every, events: 1000")
    (folder / "other.yaml").write_text(fewer)
    assert causes(differs(live, folder / "other.yaml"))[0].startswith("a reset too many: ")


def test_a_reset_to_another_state_is_named(tmp_path, registry):
    rule = "{type: on_value, field: kind, equals: q}"
    for changed, code in ((rule, True), (rule.replace("q}", "q, to: zeros}"), False)):
        found = compared(tmp_path, registry, SUM, "{type: sums}", lines(), live_changes=[(rule, changed)])
        assert found.equal is code
    (cause,) = found.causes
    assert cause.startswith("reset to another state: ")
    assert found.note


NAIVE = """
source: {type: stdin}
decode: {type: jsonl}
event: {key: user, inputs: {z: [{field: a}]}}
reset: [{type: on_value, field: kind, equals: q}, {type: source_end}]
model: MODEL
encode: {type: jsonl}
sink: {type: stdout}
"""
SUM = "{type: formula, state: {s: 1}, update: {s: s + z}, output: {y: s}}"


class Sums(Offline):
    """cumsum, as somebody else would write it; wrong from event `wrong_from` of a sequence on."""

    inputs = (TensorSpec("x", (1,), "float64"),)
    outputs = (TensorSpec("sum", (1,), "float64"),)

    def __init__(self, config):
        self.first, self.wrong_from = config.first, config.wrong_from

    def sequence(self, x, zeros=False):
        y = np.cumsum(x["x"], axis=0) + (0 if zeros else self.first)
        y[self.wrong_from :] += 1
        return {"sum": y}


class SumsConfig(BaseModel):
    first: float = 1.0
    wrong_from: int = 1000


@pytest.fixture
def registry():
    """With a third party's backend that has an offline model and, for the test's sake, no other."""
    plugin, found = ModuleType("sums"), Registry(entry_points=[])
    component = Component(
        "backend",
        "sums",
        SumsConfig,
        "no.such:module",
        "sums",
        offline=lambda config, given, context: Sums(config),
    )
    plugin.streamrnn_components = hookimpl(specname="streamrnn_components")(lambda: [component])
    found.add(plugin, "tests")
    return found


def compared(folder, registry, live, reference, lines, live_changes=()):
    """The verdict on two models of `NAIVE` over lines in a file."""
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    specs = []
    for name, model, input in (("live", live, "z"), ("reference", reference, "x")):
        text = NAIVE.replace("MODEL", model).replace("{z:", f"{{{input}:")
        text = text.replace("type: stdin", "type: file, path: lines.jsonl")
        for old, new in live_changes if name == "live" else ():
            text = text.replace(old, new)
        (folder / f"{name}.yaml").write_text(text)
        spec, _, context = open_pipeline(str(folder / f"{name}.yaml"), registry)
        specs.append((spec, context))
    return verify(*specs)


def lines(n=60):
    rng = random.Random(4)
    return [{"user": rng.choice("uvw"), "a": rng.random(), "kind": rng.choice("ppq")} for _ in range(n)]


def test_a_reference_of_a_plugin_names_inputs_and_outputs_its_own_way(tmp_path, registry):
    verdict = compared(tmp_path, registry, SUM, "{type: sums}", lines())
    assert verdict.equal
    assert (verdict.events, verdict.keys) == (60, 3)
    assert verdict.largest < 1e-12


def test_the_first_event_that_differs_is_shown(tmp_path, registry):
    verdict = compared(tmp_path, registry, SUM, "{type: sums, wrong_from: 5}", lines())
    seen, step = {}, {}
    for number, line in enumerate(lines(), 1):
        user = line["user"]
        step[user] = 1 if line["kind"] == "q" or user not in step else step[user] + 1
        if step[user] > 5:
            seen.setdefault("first", (user, number, step[user]))
    user, number, steps = seen["first"]
    assert verdict.first["key"] == user
    assert verdict.first["place"].startswith(f"record {number} of lines.jsonl (byte ")
    assert (verdict.first["step"], verdict.first["tensor"]) == (steps, "y")
    assert verdict.first["distance"] == pytest.approx(1)
    assert verdict.causes == []


def test_another_initial_state_is_a_difference_of_the_models(tmp_path, registry):
    verdict = compared(tmp_path, registry, SUM, "{type: sums, first: 2}", lines())
    assert verdict.differing == 60
    assert "none of" in verdict.note


FORGETS = "{type: formula, state: {s: 1}, update: {s: s}, output: {y: 1 + z}}"


def test_a_model_that_keeps_no_state_is_named(tmp_path, registry):
    (cause,) = compared(tmp_path, registry, FORGETS, "{type: sums}", lines()).causes
    assert cause.startswith(
        "state: the live model forgets at every event, as the other one does if it is reset"
    )


def test_what_the_live_model_refuses_is_left_out_of_both(tmp_path, registry):
    live = "{type: formula, state: {s: 1}, update: {s: s + z}, output: {y: s + 0*log(z)}}"
    spoiled = [{**line, "a": -1 if i % 9 == 4 else line["a"]} for i, line in enumerate(lines())]
    verdict = compared(tmp_path, registry, live, "{type: sums}", spoiled)
    assert verdict.equal
    assert verdict.events == 60 - 7


def test_more_than_one_file_and_their_ends(folder, kind):
    rule = "  - {type: on_change, field: session}\n"
    live = write(folder, kind, "live.yaml", (rule, "  - {type: source_end}\n"))
    reference = write(folder, kind, "reference.yaml", (rule, ""))
    data, more = folder / "data.jsonl", folder / "more.jsonl"
    more.write_text(data.read_text())
    assert run(live, "--input", data, "--input", more)[0] == 0
    code, out = run(live, "--against", reference, "--input", data, "--input", more)
    assert code == 1
    assert "a reset too many: 6 events begin anew in live only" in out
    assert "'source_end' (source_end, " in out


@pytest.mark.parametrize("kind", ["gru"], indirect=True)
def test_a_verdict_as_json(folder, kind):
    live = write(folder, kind, "live.yaml", ("gap_s: 50", "gap_s: 500"))
    code, out = run(live, "--against", folder / "good.yaml", "--format", "json", "--events", 300)
    verdict = json.loads(out)
    assert code == 1
    assert not verdict["equal"]
    assert verdict["events"] < 300
    assert verdict["first"]["step"] > 1
    assert run(live, "--against", folder / "good.yaml", "--absolute", 1e9)[0] == 0


WRONG = {
    "no end": (("path: data.jsonl", "path: data.jsonl, follow: true"), (), "source: expected data that ends"),
    "other records": (
        (),
        ("type: jsonl}\nevent", "type: csv}\nevent"),
        "decode.type: expected 'jsonl', as in",
    ),
    "another order": (
        ("reset:", "order: {type: event_time, max_behind_s: 5}\nreset:"),
        (),
        "order: expected events to be served as they arrive",
    ),
    "a mistake": ((), ("- {type: gap", "- {tipe: gap"), "reset.1.type: missing"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("kind", ["gru"], indirect=True)
def test_what_cannot_be_compared_is_refused(folder, kind, name):
    ours, theirs, message = WRONG[name]
    live = write(folder, kind, "live.yaml", *([ours] if ours else []))
    other = write(folder, kind, "reference.yaml", *([theirs] if theirs else []))
    result = CliRunner().invoke(command, [str(live), "--against", str(other)])
    assert result.exception.exit_code == 2
    assert message in str(result.exception)


@pytest.mark.parametrize("kind", ["gru"], indirect=True)
def test_other_outputs_are_refused(folder, kind):
    two = ("weights: head}]", "weights: head}], outputs: {p: head, h: rnn}")
    live, other = write(folder, kind, "live.yaml"), write(folder, kind, "reference.yaml", two)
    result = CliRunner().invoke(command, [str(live), "--against", str(other)])
    assert result.exception.exit_code == 2
    assert "model: expected the outputs of the live model (y), found p, h" in str(result.exception)


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    """The files that docs/verify.md speaks of."""
    folder = tmp_path_factory.mktemp("documented") / "pipelines"
    shutil.copytree(PIPELINES, folder, ignore=shutil.ignore_patterns("words_*"))
    found = load_file(folder / "models" / "next_letter.safetensors")
    for name in [name for name in found if name.startswith("gru.")]:
        r, z, n = np.split(found[name], 3)
        found[name] = np.concatenate([z, r, n])
    save_file(found, folder / "models" / "converted.safetensors")
    text = (folder / "next_letter.yaml").read_text()
    (folder / "converted.yaml").write_text(text.replace("next_letter.safe", "converted.safe"))
    late = (folder / "flights_delay.yaml").read_text().replace("gap_s: 86400", "gap_s: 864000")
    (folder / "late.yaml").write_text(late.replace("one_hot: [EWR, JFK, LGA]", "one_hot: [JFK, EWR, LGA]"))
    return folder


EXAMPLES = re.findall(r"(?ms)^```console\n\$ streamrnn verify ([^\n]*)\n(.*?)^```$", DOCS.read_text())


@pytest.mark.parametrize(("arguments", "printed"), EXAMPLES, ids=[example[0] for example in EXAMPLES])
def test_the_documented_examples_print_what_is_shown(documented, monkeypatch, arguments, printed):
    monkeypatch.chdir(documented)
    code, out = run(*arguments.split())
    assert code == (0 if printed.startswith("equal") else 1)
    # The last digits may differ on other processors, and with them where the largest distance is, if any.
    numbers = r"largest distance [\d.e-]+(?: \('y', [^\n]*?\)\))?|-?\d+\.\d+(?:e-\d+)?|distance [\d.e-]+"
    assert re.sub(numbers, "#", out) == re.sub(numbers, "#", printed)


def test_nothing_compared_is_not_equal(tmp_path, registry):
    empty = compared(tmp_path, registry, SUM, "{type: sums}", [])
    assert not empty.equal
    assert str(empty) == "nothing was compared: of 0 records none was served"
    spoiled = compared(tmp_path, registry, SUM, "{type: sums}", [{**line, "a": "x"} for line in lines(5)])
    assert not spoiled.equal
    assert str(spoiled) == (
        "nothing was compared: of 5 records none was served; record 1 of lines.jsonl (byte 0): a: expected a "
        'number, found "x"'
    )


def test_models_of_other_inputs_cannot_be_tried_on_each_other(folder, kind):
    fewer = ("      - {elapsed: min}\n", "")
    weights = weigh_less(folder)
    code, out = run(
        folder / "good.yaml", "--against", write(folder, kind, "fewer.yaml", fewer, model=weights)
    )
    assert code == 1
    assert causes(out) == ["inputs: the models take other inputs: x of 5 live, x of 4 in the reference"]
    assert out.endswith("  note:  neither model can be tried on the other's inputs\n")


def test_an_input_more_is_told(tmp_path, registry):
    live = "{type: formula, state: {s: 1}, update: {s: s + x}, output: {y: s + 0.001*w}}"
    found = compared(
        tmp_path, registry, live, "{type: sums}", lines(), live_changes=[("{z:", "{w: [{field: a}], x:")]
    )
    assert found.causes == ["inputs: live has inputs that the reference has not: w"]
    assert "the models also differ, and none of" in found.note


def weigh_less(folder):
    def cut(found):
        found["rnn.weight_ih_l0"] = found["rnn.weight_ih_l0"][:, :4]

    return changed(folder, cut)
