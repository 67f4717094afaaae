"""The fields of JSON records that are read: types to decode them as, and columns of what was decoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec.structs import astuple

from streamrnn.errors import OptionError

if TYPE_CHECKING:
    from streamrnn.events import Column

KINDS = {"int": "number", "float": "number", "str": "string", "bool": "true or false"}
_UNNAMEABLE = re.compile(r'["\\\x00-\x1f]')
"""What a struct's field cannot be called, since its name is compared unescaped."""


class Refusal(Exception):
    """A verdict on one record, with the reason."""


@dataclass(slots=True)
class Node:
    """A name in the declared paths. A `leaf` is wanted itself, `raw` if only verbatim.

    `shape` is () for a leaf that must be a number, (k,) for a list of k numbers, None for one that may be
    anything.
    """

    path: str = ""
    leaf: bool = False
    raw: bool = False
    shape: tuple[int, ...] | None = None
    children: dict[str, Node] = field(default_factory=dict)
    struct: Any = None
    blank: Any = None
    """A `struct` with nothing in it, which stands for a missing or refused one."""

    def below(self) -> list[Node]:
        """All leaves under this one."""
        found: list[Node] = []
        for child in self.children.values():
            found += [child] if child.leaf else []
            found += child.below()
        return found

    def names(self) -> dict[str, Any]:
        """The names under this one, as a tree."""
        return {name: child.names() for name, child in self.children.items()}

    def compile(self) -> Any:
        """The type to decode this node as."""
        if self.leaf and self.shape is not None:
            return list[float] | None if self.shape else float | None
        if self.leaf:
            return msgspec.Raw if self.raw and not self.children else Any
        rename = {f"f{index}": name for index, name in enumerate(self.children)}
        types = [child.compile() for child in self.children.values()]
        fields = [(name, kind, None) for name, kind in zip(rename, types, strict=True)]
        self.struct = msgspec.defstruct("Record", fields, rename=rename, gc=False)
        self.blank = self.struct()
        return self.struct | None


def tree(
    fields: Sequence[str], verbatim: Sequence[str], arrays: Mapping[str, tuple[int, ...]] | None = None
) -> Node:
    """The root over all paths; those in `arrays`, if none lies below them, must be numbers or null.

    Raises `OptionError` for a name that JSON would have to escape.
    """
    root = Node()
    for path in (*fields, *verbatim):
        node = root
        for name in path.split("."):
            below = f"{node.path}.{name}" if node is not root else name
            node = node.children.setdefault(name, Node(below))
        node.leaf, node.raw = True, path not in fields
        if _UNNAMEABLE.search(path):
            text = f"expected a field without quotes, backslashes and control characters, found {path!r}"
            raise OptionError(((), text))
        node.shape = (arrays or {}).get(path)
    for leaf in root.below():
        leaf.shape = None if leaf.children else leaf.shape
    root.compile()
    return root


def collect(node: Node, records: Sequence[Any], found: dict[str, Column]) -> None:
    """Put the columns of all leaves under `node` into `found`, given its structs.

    Those with a shape become float64 arrays [n, *shape], unless one of them is null or of another length.
    """
    rows = zip(*map(astuple, records), strict=True) if records else repeat((), len(node.children))
    for child, column in zip(node.children.values(), rows, strict=True):
        values = list(column)
        if child.leaf:
            found[child.path] = values if child.shape is None else _packed(values, child.shape)
            for leaf in child.below():
                found[leaf.path] = [_walk(value, child, leaf) for value in values]
        else:
            collect(child, [child.blank if value is None else value for value in values], found)


def _packed(values: list[Any], shape: tuple[int, ...]) -> Column:
    """Floats, or lists of them, as an array [n, *shape]; as they are, if they do not fit."""
    pack = struct.Struct(f"={len(values)}d" if not shape else f"={shape[0]}d").pack
    try:
        packed = b"".join([pack(*row) for row in values]) if shape else pack(*values)
    except (TypeError, struct.error):
        return values
    return np.frombuffer(packed, np.float64).reshape(len(values), *shape)


def _walk(value: Any, above: Node, leaf: Node) -> Any:
    """The value of a leaf inside the value of a node above it that is wanted as well."""
    path = above.path
    for name in leaf.path.removeprefix(f"{path}.").split("."):
        if value is None:
            return None
        if not isinstance(value, dict):
            kind = "array" if isinstance(value, list) else KINDS[type(value).__name__]
            raise Refusal(f"expected a JSON object at {path}, found {kind}")
        path, value = f"{path}.{name}", value.get(name)
    return value
