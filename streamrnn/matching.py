"""Whether a value is what was expected, and where it is not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

TreePath = tuple[str | int, ...]

_SHOWN_MAX = 60


def differences(
    expected: Any, found: Any, tolerance: float, path: TreePath = ()
) -> Iterator[tuple[TreePath, str]]:
    """Where `found` lacks what is expected, as pairs of a path into `expected` and a message.

    Of a mapping only the expected keys are compared; `next.0` is element 0 of the list in `next`, unless
    that is a key as it stands. Lists match element by element, texts and true or false exactly, null also
    what is missing. Integers match exactly, a number and a float where
    abs(found - expected) <= tolerance * (1 + abs(expected)).
    """
    if isinstance(expected, Mapping) and isinstance(found, Mapping | list):
        for name, value in expected.items():
            inside = _look_up(found, name)
            hint = ""
            if inside is MISSING and value is not None and isinstance(found, Mapping):
                hint = f"; there is {', '.join(found) or 'no field at all'}"
            for where, message in differences(value, inside, tolerance, (*path, name)):
                yield where, message + hint
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield path, f"expected a list of {len(expected)}, found one of {len(found)}: {_shown(found)}"
            return
        for index, pair in enumerate(zip(expected, found, strict=True)):
            yield from differences(*pair, tolerance, (*path, index))
    elif not _equal(expected, found, tolerance):
        yield path, f"expected {_shown(expected)}, found {_shown(found)}"


MISSING: Final = object()


def _look_up(found: Any, name: str) -> Any:
    """What a dotted name means inside a record; `MISSING` if nothing."""
    if isinstance(found, Mapping) and name in found:
        return found[name]
    if isinstance(found, list):
        head, dot, rest = name.partition(".")
        if not (head.isascii() and head.isdigit() and int(head) < len(found)):
            return MISSING
        return _look_up(found[int(head)], rest) if dot else found[int(head)]
    for at, character in enumerate(name):
        if character == "." and isinstance(found, Mapping) and name[:at] in found:
            return _look_up(found[name[:at]], name[at + 1 :])
    return MISSING


def _equal(expected: Any, found: Any, tolerance: float) -> bool:
    if expected is None:
        return found is None or found is MISSING
    if type(expected) in (int, float) and type(found) in (int, float):
        if type(expected) is type(found) is int:
            return bool(expected == found)
        return bool(abs(found - expected) <= tolerance * (1 + abs(expected)))
    return type(expected) is type(found) and bool(expected == found)


def _shown(value: Any) -> str:
    if value is MISSING:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 3]}..."
