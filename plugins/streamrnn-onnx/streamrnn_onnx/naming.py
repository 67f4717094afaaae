"""Which output's name says that it is the next value of an input: `h0` and `hn`, `past_k` and `present_k`."""

from __future__ import annotations

import re
from collections.abc import Iterator

_BEFORE = frozenset(
    {"0", "cur", "current", "i", "in", "init", "initial", "input", "last", "old", "past", "prev", "previous"}
    | {"start", "starting", "t", "tm1"}
)
_AFTER = frozenset(
    {"end", "ending", "final", "n", "new", "next", "o", "out", "output", "present", "t", "update", "updated"}
)
_GLUED_BEFORE = ("x", "in")
_GLUED_AFTER = ("n", "y", "out", "t")
_STRIPPED_MOST = 2

_ONLY = {("old", "new"), ("past", "present"), ("prev", "next"), ("previous", "next")}
"""Words that say "before" and "after" and nothing else, but belong to each other."""

# Hugging Face's names of a decoder's cache.
_WHOLE = ((re.compile(r"past_key_values?"), "past"), (re.compile(r"[:]\d+$"), ""))


def stems(name: str, after: bool) -> set[str]:
    """What may be left of a name without the words that say "before" (or "after") the step.

    Never an empty text: `input` alone says nothing of what it is.
    """
    for pattern, replacement in _WHOLE:
        name = pattern.sub(replacement, name)
    words = tuple(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name))
    found = {words}
    for _ in range(_STRIPPED_MOST):
        found |= {shorter for known in found for shorter in _shorter(known, after)}
    return {"_".join(words) for words in found if words}


def _shorter(words: tuple[str, ...], after: bool) -> Iterator[tuple[str, ...]]:
    if not words:
        return
    role, glued = (_AFTER, _GLUED_AFTER) if after else (_BEFORE, _GLUED_BEFORE)
    if words[0] in role:
        yield words[1:]
    if words[-1] in role:
        yield words[:-1]
    for suffix in glued:
        # `hn` and `cy`, but not `attention` or `memory`: only a letter is left to say what it is.
        if words[-1].endswith(suffix) and len(words[-1]) == len(suffix) + 1 and words[-1][0].isalpha():
            yield (*words[:-1], words[-1][0])


def alike(before: str, after: str) -> bool:
    """Whether one name can be the other after a step; a name that is only a number cannot."""
    if (before.lower(), after.lower()) in _ONLY:
        return True
    common = stems(before, after=False) & stems(after, after=True)
    return any(not stem.replace("_", "").isdigit() for stem in common)
