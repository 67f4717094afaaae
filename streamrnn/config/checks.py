"""What must hold between the sections of a pipeline file."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from streamrnn.builtins.resets import RuleOptions
from streamrnn.config import model as m
from streamrnn.config.problems import Path, suggest
from streamrnn.config.reach import out_of_reach
from streamrnn.config.spec import Chosen, ElapsedItem, PipelineSpec

if TYPE_CHECKING:
    from streamrnn.backend import Description, TensorSpec
    from streamrnn.context import Context

Problem = tuple[Path, str]


def time_problems(file: m.PipelineFile, rules: list[Chosen], spec: PipelineSpec) -> Iterator[Problem]:
    """What needs `event.time` in a pipeline that has none, and times that contradict each other."""
    time = file.event.time
    if time is not None:
        order = list(m.Time.TICKS)
        if (
            time.unit != "rfc3339"
            and time.resolution
            and order.index(time.resolution) < order.index(time.unit)
        ):
            text = f"expected {time.unit} or finer, found {time.resolution}, which is coarser than the unit"
            yield ("event", "time", "resolution"), text
        return
    needs = "needs event.time, which this pipeline does not have"
    for rule in rules:
        if getattr(rule.options, "needs_time", False):
            yield (*rule.path, "type"), f"'{rule.component.name}' {needs}"
    for name in ("idle_s", "max_ahead_s"):
        if getattr(file.limits, name) is not None:
            yield ("limits", name), needs
    if file.order is not None and file.order.type == "event_time":
        yield ("order", "type"), f"'event_time' {needs}"
    for name, items in spec.inputs.items():
        for i, item in enumerate(items):
            if isinstance(item, ElapsedItem):
                yield ("event", "inputs", name, i, "elapsed"), needs


def order_problems(file: m.PipelineFile) -> Iterator[Problem]:
    """Options that do not go with the order that was asked for."""
    order = file.order
    if order is None:
        return
    if order.type == "event_time" and order.max_behind_s is None:
        yield ("order", "max_behind_s"), "missing; expected how long events wait for earlier ones, in seconds"
    if order.type == "arrival":
        for name in order.ONLY_EVENT_TIME:
            if name in order.model_fields_set:
                yield ("order", name), "goes with type: event_time; as they arrive, no event waits"


def rule_problems(file: m.PipelineFile, rules: list[Chosen]) -> Iterator[Problem]:
    """Rules with the same name, and rules without reach."""
    taken: dict[str, Path] = {}
    for rule in rules:
        options = rule.options
        given = options.name if isinstance(options, RuleOptions) else getattr(options, "name", None)
        name = given or rule.component.name
        if name in taken:
            can_be_named = "name" in type(options).model_fields
            hint = "; give one of them a name: of its own"
            told = hint if can_be_named else ", a name that cannot be changed; one is enough"
            yield rule.path, f"two rules are named '{name}'{told}"
        taken[name] = rule.path
    for rule, why in out_of_reach(rules, file):
        yield rule.path, why


def state_problems(file: m.PipelineFile) -> Iterator[Problem]:
    """Tiers that there are not, and what a second one needs."""
    state = file.state
    if state.tiers not in (["memory"], ["memory", "disk"]):
        yield ("state", "tiers"), f"expected [memory] or [memory, disk], found [{', '.join(state.tiers)}]"
        return
    if "disk" in state.tiers and find_spec("lmdb") is None:
        yield ("state", "tiers"), "disk needs lmdb, which is not installed: pip install 'streamrnn[lmdb]'"
    for name in ("hot_keys", "dir"):
        given = getattr(state, name) is not None
        if given and "disk" not in state.tiers:
            yield ("state", name), "needs tiers: [memory, disk]"
        elif not given and "disk" in state.tiers:
            yield ("state",), f"missing '{name}', which tiers: [memory, disk] needs"
    if state.hot_keys is not None and state.hot_keys >= file.limits.max_keys:
        yield (
            ("state", "hot_keys"),
            f"expected fewer than limits.max_keys = {file.limits.max_keys}, found {state.hot_keys}: "
            "no key would ever go to the disk",
        )


def checkpoint_problems(spec: PipelineSpec) -> Iterator[Problem]:
    """Ends that a pipeline with commits, or one without, cannot have.

    Such options say so in `refuses_checkpoint` or `needs_checkpoint`: an option, and why.
    """
    asked, told = (
        ("refuses_checkpoint", "cannot stand beside checkpoint")
        if spec.file.checkpoint
        else ("needs_checkpoint", "needs checkpoint")
    )
    for chosen in (spec.source, spec.sink):
        if refused := getattr(chosen.options, asked, None):
            option, why = refused
            yield (*chosen.path, option), f"{told}: {why}"
    if spec.file.candidate is not None and getattr(spec.source.options, "brings_commits", False):
        name = spec.source.component.name
        yield ("candidate",), f"cannot stand beside a source '{name}' whose commits are its own"


def file_problems(spec: PipelineSpec, context: Context) -> Iterator[Problem]:
    """Files that the ends need and that are not there; their options name them in `needed_files`.

    Only `lint` asks: a pipeline can be tested, or its state looked at, where its keys are not.
    """
    for chosen in (spec.source, spec.sink):
        for option, name in getattr(chosen.options, "needed_files", {}).items():
            found = context.fs.status(context.path(name))
            if found is None or not stat.S_ISREG(found.st_mode):
                yield (*chosen.path, *option), f"there is no file {context.path(name)}"


def secret_problems(spec: PipelineSpec) -> Iterator[Problem]:
    """Secrets that stand in the file itself; options name theirs in `secrets`, as paths."""
    for chosen in (spec.source, spec.sink):
        for option in getattr(chosen.options, "secrets", ()):
            node = spec.tree.node(path := (*chosen.path, *option))
            if node is not None and (node.source is None or ":-" in node.source):
                yield path, "expected a reference such as ${NAME}, found a secret in the file itself"


def field_problems(spec: PipelineSpec) -> Iterator[Problem]:
    """Fields that the source supplies, and does not have; its options say so in `field_problem(path)`."""
    if problem_of := getattr(spec.source.options, "field_problem", None):
        for where, field in _named_fields(spec):
            if text := problem_of(field):
                yield where, text


def _named_fields(spec: PipelineSpec) -> Iterator[tuple[Path, str]]:
    event = spec.file.event
    if isinstance(event.key, str):
        yield ("event", "key"), event.key
    else:
        yield from ((("event", "key", i), field) for i, field in enumerate(event.key or ()))
    if event.time is not None:
        yield ("event", "time", "field"), event.time.field
    if spec.file.order is not None and (duplicates := spec.file.order.duplicates) is not None:
        yield from ((("order", "duplicates", "id"), field) for field in duplicates.paths)
    for name, items in spec.inputs.items():
        for i, item in enumerate(items):
            yield from ((("event", "inputs", name, i), field) for field in getattr(item, "fields", ()))
    yield from ((("encode", "include", i), field) for i, field in enumerate(spec.file.encode.include))


def context_problems(spec: PipelineSpec) -> Iterator[Problem]:
    """Context of inputs that the event does not make."""
    for name in spec.file.model.context:
        if name not in spec.inputs:
            hint = suggest(name, spec.inputs)
            text = f"event.inputs has no '{name}'{hint or ';'} it has: {', '.join(spec.inputs)}"
            yield ("model", "context", name), text


def candidate_problems(model: Description, candidate: Description) -> Iterator[Problem]:
    """Inputs and outputs of a candidate that are not those of the model beside it."""
    for what in ("inputs", "outputs"):
        wanted, found = (sorted(map(_shown, getattr(each, what))) for each in (model, candidate))
        if wanted != found:
            text = f"expected the {what} of model, {', '.join(wanted)}; found {', '.join(found)}"
            yield ("candidate", "model"), text


def _shown(tensor: TensorSpec) -> str:
    return f"{tensor.name} {tensor.dtype} [{', '.join(map(str, tensor.shape))}]"


def model_problems(spec: PipelineSpec, inputs: Sequence[TensorSpec]) -> Iterator[Problem]:
    """Inputs that the model and the event do not agree on."""
    wanted = {tensor.name: tensor for tensor in inputs}
    for name in spec.given.keys() - wanted.keys():
        hint = suggest(name, wanted)
        yield (
            ("event", "inputs", name),
            f"the model has no input '{name}'{hint or ';'} it has: {', '.join(wanted)}",
        )
    for name, tensor in wanted.items():
        if name not in spec.given:
            yield ("event", "inputs"), f"missing; the model's input '{name}' wants {tensor.width} numbers"
        else:
            yield from _input_problems(tensor, spec.given[name])


def _input_problems(wanted: TensorSpec, given: TensorSpec) -> Iterator[Problem]:
    path = ("event", "inputs", wanted.name)
    if wanted.width != given.width:
        yield path, f"the model wants {wanted.width} numbers, the features make {given.width}"
    if wanted.dtype.startswith("int") and given.dtype != "int64":
        yield path, f"the model wants {wanted.dtype} indices, the features make numbers; vocab makes indices"
    if wanted.high is not None and given.high is not None and given.high > wanted.high:
        yield path, f"the model knows {wanted.high} indices, the features make {given.high}"


def encode_problems(spec: PipelineSpec, outputs: Mapping[str, TensorSpec]) -> Iterator[Problem]:
    """Encoded fields that no model output fits."""
    encode = spec.file.encode
    for name, made in (encode.fields or {}).items():
        path: Path = ("encode", "fields", name)
        if name in encode.include:
            yield path, f"'{name}' is also in include; give one of them another name"
        if isinstance(made, m.Meta):
            if made.name == "time" and spec.file.event.time is None:
                yield (*path, "name"), "needs event.time, which this pipeline does not have"
        elif made.output not in outputs:
            hint = suggest(made.output, outputs)
            text = f"the model has no output '{made.output}'{hint or ';'} it has: {', '.join(outputs)}"
            yield (*path, "output"), text
        else:
            yield from _field_problems(path, made, outputs[made.output].width)
    for included in encode.include:
        if encode.fields is None and included in outputs:
            yield ("encode", "include"), f"'{included}' is also a model output; name the outputs in fields"


def _field_problems(path: Path, made: m.EncodedField, width: int) -> Iterator[Problem]:
    labels = getattr(made, "labels", None)
    if labels is not None and len(labels) != width:
        yield (*path, "labels"), f"expected {width} labels, one per number of the output, found {len(labels)}"
    if isinstance(made, m.TopK) and made.k > width:
        yield (*path, "k"), f"expected at most {width}, the width of the output, found {made.k}"
