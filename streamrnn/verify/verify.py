"""The whole of `streamrnn verify`, without its command line."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from streamrnn.build import order_policy
from streamrnn.config.problems import problem
from streamrnn.errors import ConfigError, Finding
from streamrnn.verify.compare import Tolerance, pair_outputs
from streamrnn.verify.evidence import Evidence, Side
from streamrnn.verify.explain import explain
from streamrnn.verify.models import answers, load_offline
from streamrnn.verify.play import play
from streamrnn.verify.report import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamrnn.backend import TensorSpec
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.offline import Offline


def verify(
    live: tuple[PipelineSpec, Context],
    reference: tuple[PipelineSpec, Context],
    tolerance: Tolerance | None = None,
    most: int | None = None,
) -> Verdict:
    """Play the live pipeline's log through it, and through the offline model of the reference's file.

    Reads at most `most` records. Raises `ConfigError`, `ModelError` or `SourceError`.
    """
    live_spec, reference_spec = live[0], reference[0]
    _check_decode(live_spec, reference_spec)
    _check_order(live_spec)
    with ExitStack() as opened:
        model = load_offline(*reference)
        opened.callback(model.close)
        own = load_offline(*live)
        opened.callback(own.close)
        outputs = _outputs(own, model, reference_spec)
        played = play(live, reference, model.inputs, most)
        y = answers(model, played.reference.stream)
        evidence = Evidence(
            played.log,
            Side("live", live_spec, played.live.stream, own, played.y, played.live.refused),
            Side(
                "the reference",
                reference_spec,
                played.reference.stream,
                model,
                {ours: y[theirs].reshape(-1, *played.y[ours].shape[1:]) for ours, theirs in outputs.items()},
                played.reference.refused,
            ),
            outputs,
            tolerance or Tolerance(),
        )
        verdict = judge(evidence, [])
        if verdict.equal or not verdict.events:
            return verdict
        return judge(evidence, *explain(evidence))


def _check_decode(live: PipelineSpec, reference: PipelineSpec) -> None:
    ours, theirs = live.decode.component.name, reference.decode.component.name
    if ours != theirs:
        text = f"expected '{ours}', as in {live.tree.file}, whose records both read; found '{theirs}'"
        mark = reference.tree.mark(("decode", "type"))
        raise ConfigError([Finding(reference.tree.file, *mark, "decode.type", text)])


def _check_order(live: PipelineSpec) -> None:
    """Both sides are played as events arrive."""
    if order_policy(live) is not None:
        text = (
            "expected events to be served as they arrive, since that is how both sides read them here: leave "
            "`order` out, and name data with --input that is in order and has no event twice"
        )
        raise ConfigError([problem(live.tree, ("order",), text)])


def _outputs(own: Offline, model: Offline, reference: PipelineSpec) -> Mapping[str, str]:
    """By live output, the one of the reference that it is compared with. Raises `ConfigError`."""
    names: list[dict[str, TensorSpec]] = [{spec.name: spec for spec in each.outputs} for each in (own, model)]
    pairs = pair_outputs(*names)
    mark = reference.tree.mark(("model",))
    if pairs is None:
        found = [", ".join(each) for each in names]
        text = f"expected the outputs of the live model ({found[0]}), found {found[1]}"
        raise ConfigError([Finding(reference.tree.file, *mark, "model", text)])
    for ours, theirs in pairs.items():
        live, other = names[0][ours], names[1][theirs]
        if live.width != other.width:
            text = f"expected {live.width} numbers in output '{theirs}', as live, found {other.width}"
            raise ConfigError([Finding(reference.tree.file, *mark, "model", text)])
    return pairs
