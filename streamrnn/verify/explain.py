"""Why the answers differ: what differs before the models, then the models themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamrnn.verify.boundaries import keys, refusals, resets
from streamrnn.verify.hypotheses import Search, about_columns, about_gates, about_state
from streamrnn.verify.inputs import inputs
from streamrnn.verify.models import fitted

if TYPE_CHECKING:
    from streamrnn.verify.evidence import Evidence

SAME_MODELS = "given the live keys, resets and inputs, the reference's model gives the live answers"
ENGINE = (
    "engine: the live model by itself, key by key, does not give the live answers either; they depend on the "
    "batch or on something outside the state, or what it calls a whole sequence is something else"
)


def explain(evidence: Evidence) -> tuple[list[str], str]:
    """The causes that were found, and a note on what they leave open or how they are proven."""
    # Another key makes other beginnings of its own.
    found = [*refusals(evidence), *(list(keys(evidence)) or resets(evidence))]
    found += inputs(evidence, other_past=bool(found))
    search = Search(evidence)
    if search.agrees(evidence.reference.model, evidence.live):
        return found, SAME_MODELS
    if cause := search.first(about_state(evidence)):
        return [*found, cause], ""
    if not search.agrees(evidence.live.model, evidence.live):
        return [*found, ENGINE], ""
    for hypotheses in (about_gates, about_columns):
        if cause := search.first(hypotheses(evidence)):
            return [*found, cause], ""
    if fitted(evidence.live.stream, evidence.reference.model.inputs) is None:
        return found, "neither model can be tried on the other's inputs"
    if search.exhausted:
        return found, f"the models differ; the search ended after {search.tried} tries, for it is a long log"
    also = " also" if found else ""
    return found, f"the models{also} differ, and none of {search.tried} other orders, gates or resets fits"
