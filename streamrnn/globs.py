"""Patterns of keys."""

from __future__ import annotations

import re


def matches(pattern: str) -> re.Pattern[str]:
    """What a pattern of keys means: `*` is any text, `?` any one character.

    Brackets mean themselves: keys of several fields have them.
    """
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.compile("".join(parts), re.DOTALL)
