"""Differences in what the models are shown: columns in another order, scaled, or made otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.builtins.features import OneHot
from streamrnn.config.spec import ElapsedItem
from streamrnn.verify.boundaries import place
from streamrnn.verify.models import fitted

if TYPE_CHECKING:
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.events import Array, BoolArray
    from streamrnn.verify.evidence import Evidence

_RELATIVE = 1e-5
"""What float32 may lose of a feature."""
_SHOWN_MAX = 8
ELAPSED = "elapsed"
_FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "log1p": np.log1p, "expm1": np.expm1, "log": np.log, "exp": np.exp, "sqrt": np.sqrt, "square": np.square,
}  # fmt: skip


@dataclass(frozen=True)
class _Pair:
    """The columns of one input on both sides, float64 [n, width], and the names of the features in them."""

    name: str
    live: Array
    reference: Array
    live_names: Sequence[str]
    reference_names: Sequence[str]
    whole: bool
    """Whether they are indices."""


def inputs(evidence: Evidence, other_past: bool) -> Iterator[str]:
    """What is wrong with the inputs, judged by those of the reference.

    With `other_past` the sides know of other keys, events or resets: what is made of a key's past may differ.
    """
    ours, theirs = evidence.common
    live, reference = evidence.live, evidence.reference
    taken = fitted(live.stream, tuple(reference.model.inputs))
    if taken is None:
        widths = [_widths(side.stream.x) for side in (live, reference)]
        yield f"inputs: the models take other inputs: {widths[0]} live, {widths[1]} in the reference"
        return
    if len(live.stream.x) > len(reference.stream.x):
        more = sorted(live.stream.x.keys() - reference.stream.x.keys())
        yield f"inputs: live has inputs that the reference has not: {', '.join(more)}"
    for name, array in reference.stream.x.items():
        own = name if name in live.stream.x else next(iter(live.stream.x))
        pair = _Pair(
            own,
            _flat(live.stream.x[own])[ours],
            _flat(array)[theirs],
            column_names(live.spec, own),
            column_names(reference.spec, name),
            array.dtype.kind == "i",
        )
        yield from _explain(evidence, pair, other_past)


def _explain(evidence: Evidence, pair: _Pair, other_past: bool) -> Iterator[str]:
    wrong = [j for j in range(pair.live.shape[1]) if not _equal(pair.live[:, j], pair.reference[:, j])]
    moved = _order(pair, wrong)
    if moved:
        yield _moved_text(pair, moved)
        wrong = [j for j in wrong if j not in moved]
    for j in wrong[:_SHOWN_MAX]:
        past = j < len(pair.live_names) and pair.live_names[j] == ELAPSED
        relation = _relation(pair, j) or ("" if past and other_past else _otherwise(evidence, pair, j))
        if relation:
            yield f"feature {_named(pair.live_names, pair.name, j)}: {relation}"
    if len(wrong) > _SHOWN_MAX:
        yield f"inputs: {len(wrong) - _SHOWN_MAX} more columns of '{pair.name}' differ"


def _order(pair: _Pair, wrong: Sequence[int]) -> dict[int, int]:
    """By live column, the column in which the reference has it, for those that only changed places."""
    places: dict[int, int] = {}
    for j in wrong:
        fits = [
            k for k in wrong if k not in places.values() and _equal(pair.live[:, j], pair.reference[:, k])
        ]
        if fits:
            places[j] = fits[0]
    while set(places) != set(places.values()):
        kept = set(places) & set(places.values())
        places = {j: k for j, k in places.items() if j in kept and k in kept}
    return places


def _moved_text(pair: _Pair, moved: Mapping[int, int]) -> str:
    live = [_named(pair.live_names, pair.name, j) for j in moved]
    if len(moved) == 2:
        return f"feature order: {live[0]} and {live[1]} stand in each other's place"
    back = {k: j for j, k in moved.items()}
    wanted = ", ".join(_named(pair.live_names, pair.name, back[k]) for k in sorted(back)[:_SHOWN_MAX])
    more = ", ..." if len(back) > _SHOWN_MAX else ""
    columns = f"columns {min(moved)} to {max(moved)}"
    return f"feature order: {columns} of '{pair.name}' must be, in the reference's order: {wanted}{more}"


def _relation(pair: _Pair, j: int) -> str | None:
    """How the reference's column is made of the live one in the same place, if it can be."""
    a, b = pair.live[:, j], pair.reference[:, j]
    if pair.whole:
        return _indices(a, b)
    if text := _affine(a, b):
        return text
    for name, function in _FUNCTIONS.items():
        with np.errstate(all="ignore"):
            if _equal(function(a), b):
                return f"scaling: the reference has {name} of the live value"
            if _equal(a, function(b)):
                return f"scaling: live has {name} of the reference's value"
    return None


def _otherwise(evidence: Evidence, pair: _Pair, j: int) -> str:
    """Where a column differs first."""
    a, b = pair.live[:, j], pair.reference[:, j]
    differs = np.flatnonzero(~_close(a, b))
    first = int(differs[0])
    where = place(evidence, evidence.live, int(evidence.common[0][first]))
    return (
        f"made otherwise: differs in {len(differs)} of {len(a)} events, first {where}: "
        f"{a[first]:.6g} live, {b[first]:.6g} in the reference"
    )


def _affine(a: Array, b: Array) -> str | None:
    """reference = scale * live + shift, where that fits."""
    spread = a - a.mean()
    square = float(spread @ spread)
    if square == 0 or len(a) < 3:
        return None
    scale = float(spread @ (b - b.mean())) / square
    shift = float(b.mean() - scale * a.mean())
    size = max(float(np.abs(b).max()), abs(shift), float(np.abs(scale * a).max()))
    if scale == 0 or float(np.abs(scale * a + shift - b).max()) > _RELATIVE * 10 * size:
        return None
    parts = [] if abs(scale - 1) < _RELATIVE else [f"{scale:.6g} times"]
    text = " ".join([*parts, "the live value"])
    if abs(shift) > _RELATIVE * size:
        text += f" {'plus' if shift > 0 else 'minus'} {abs(shift):.6g}"
    return f"scaling: the reference has {text}"


def _indices(a: Array, b: Array) -> str:
    """Whether indices mean the same values in another order."""
    pairs = sorted(set(zip(a.astype(int).tolist(), b.astype(int).tolist(), strict=True)))
    if len({one for one, _ in pairs}) == len({two for _, two in pairs}) == len(pairs):
        shown = ", ".join(f"{one} is {two}" for one, two in pairs if one != two)
        return f"vocabulary order: the same values have other indices; live index {shown} in the reference"
    first = int(np.flatnonzero(a != b)[0])
    return f"vocabulary: other indices, such as {a[first]:.0f} live for {b[first]:.0f} in the reference"


def column_names(spec: PipelineSpec, name: str) -> list[str]:
    """A name for each column of an input: the field, and what tells apart several columns of one field."""
    names: list[str] = []
    for item in spec.inputs.get(name, ()):
        if isinstance(item, ElapsedItem):
            names.append(ELAPSED)
        elif len(item.fields) == item.width:
            names += item.fields
        else:
            one_hot = item.encoder.options if item.encoder is not None and not item.then else None
            values = one_hot.one_hot if isinstance(one_hot, OneHot) else range(item.width)
            names += [f"{', '.join(item.fields)}: {value}" for value in values]
    return names


def _named(names: Sequence[str], input: str, j: int) -> str:
    return f"'{names[j]}' ({input}[{j}])" if j < len(names) else f"{input}[{j}]"


def _flat(array: Array) -> Array:
    flat: Array = array.reshape(len(array), -1).astype(np.float64)
    return flat


def _close(a: Array, b: Array) -> BoolArray:
    return np.isclose(a, b, rtol=_RELATIVE, atol=_RELATIVE * 1e-3)


def _equal(a: Array, b: Array) -> bool:
    return bool(_close(a, b).all())


def _widths(x: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} of {array[0].size if len(array) else 0}" for name, array in x.items())
