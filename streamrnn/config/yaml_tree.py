"""YAML read strictly: plain data, and the place in the file of every key and value.

The tree is built from parser events in a loop, so neither depth nor aliases can exhaust anything. Plain
scalars mean what the core schema of YAML 1.2 says (https://yaml.org/spec/1.2.2/#103-core-schema): `on`,
`no` and `22:22` are texts, `1e3` is a number. Quoted and block scalars are always texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from contextlib import closing
from typing import Any, NoReturn

import yaml

from streamrnn.config.problems import Path, dotted, found, quoted
from streamrnn.errors import ConfigError, Finding

BYTES_MAX = 1 << 20
NODES_MAX = 100_000
DEPTH_MAX = 64
DIGITS_MAX = 100
"""Characters of an integer; what is longer fits no option, and Python limits how it may be printed."""
FINDINGS_MAX = 100

Scalar = str | int | float | bool | None
Position = tuple[int, int]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_BASES = {"0o": 8, "0x": 16}
# U+0085, U+2028 and U+2029 end a line for YAML 1.1 parsers only: written raw, their meaning is in doubt.
_REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_TAB = re.compile(r"^( *)\t[ \t]*", re.MULTILINE)
_DIRECTIVE = re.compile(r"^%", re.MULTILINE)
_OWN_TAGS = "tag:yaml.org,2002:"
_LINE_END = re.compile(r"\r\n?|\n")


class Node:
    """Where a value stands. `key_mark` is None for what has no key, `children` for a scalar.

    `plain` says that it was written without quotes; `source` is the text of the file where a substitution
    has replaced it.
    """

    __slots__ = ("children", "key_mark", "mark", "plain", "source")

    def __init__(self, mark: Position, plain: bool = False, children: dict[str | int, Node] | None = None):
        self.mark = mark
        self.key_mark: Position | None = None
        self.plain = plain
        self.source: str | None = None
        self.children = children


class Tree:
    """The data of one file, and the `Node` of each value in it. Positions are line and column, from 1."""

    def __init__(self, file: str, data: dict[str, Any], root: Node) -> None:
        self.file = file
        self.data = data
        self.root = root

    def node(self, path: Path) -> Node | None:
        """The node at a path, None if there is nothing."""
        node, whole = self._nearest(path)
        return node if whole else None

    def value(self, path: Path) -> Any:
        """The data at a path that exists."""
        data: Any = self.data
        for part in path:
            data = data[part]
        return data

    def mark(self, path: Path) -> Position:
        """Where the value at `path` begins; for a missing option, the key of the mapping that lacks it."""
        node, whole = self._nearest(path)
        return node.mark if whole or node.children is None else node.key_mark or node.mark

    def key_mark(self, path: Path) -> Position:
        """Where the key of the value at `path` begins; what has no key answers as `mark` does."""
        node, whole = self._nearest(path)
        return (node.key_mark if whole else None) or self.mark(path)

    def _nearest(self, path: Path) -> tuple[Node, bool]:
        node = self.root
        for part in path:
            child = (node.children or {}).get(part)
            if child is None:
                return node, False
            node = child
        return node, True


def load(text: str | bytes, file: str) -> Tree:
    """Read one pipeline file; `file` is its name in messages.

    Raises `ConfigError` with every mistake that could be found; a mistake of syntax hides those after it.
    """
    builder = _Builder(file, _checked(text, file))
    try:
        # The C parser holds memory of its own until the generator is closed.
        events: Any = yaml.parse(builder.text, Loader=_LOADER)
        with closing(events):
            builder.read(events)
    except yaml.YAMLError as error:
        builder.syntax_error(error)
    return builder.tree()


def resolve(text: str) -> Scalar:
    """The value of a plain scalar. Raises `ValueError` where it is no finite number or absurdly long."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        if len(text) > DIGITS_MAX:
            raise ValueError(f"an integer of {len(text)} characters, the limit is {DIGITS_MAX}; quote a text")
        return int(text, _BASES.get(text[:2], 10))
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"expected a finite number, found {text}; quote it if it is a text")
    if not _FLOAT.fullmatch(text):
        return text
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"expected a number that a float can hold, found {quoted(text)}")
    return number


def _checked(text: str | bytes, file: str) -> str:
    """The text without its byte order mark, known to be small enough and of characters YAML allows."""
    size = len(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    if size > BYTES_MAX:
        raise ConfigError([Finding(file, 1, 1, "", f"{size} bytes; a pipeline file has at most {BYTES_MAX}")])
    text = (text if isinstance(text, str) else _decoded(text, file)).removeprefix("\ufeff")
    if match := _REFUSED.search(text):
        message = f"the character U+{ord(match[0]):04X}; write it as an escape, in double quotes"
    elif match := _DIRECTIVE.search(text):
        # A parser compares every %TAG with all before it: many of them take it minutes.
        message = "a line that begins with %; leave YAML directives out"
    else:
        return text
    raise ConfigError([Finding(file, *_position(text[: match.start()]), "", message)])


def _decoded(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        where = _position(data[: error.start].decode("utf-8"))
        message = f"expected UTF-8, found the byte 0x{data[error.start]:02x}; save the file as UTF-8"
        raise ConfigError([Finding(file, *where, "", message)]) from None


def _position(before: str) -> Position:
    """Line and column of what follows `before`."""
    lines = _LINE_END.split(before.removeprefix("\ufeff"))
    return len(lines), len(lines[-1]) + 1


class _Open:
    """A collection whose end has not come: `key` is the next index, or the pending key (None: none yet)."""

    __slots__ = ("data", "kept", "key", "key_mark", "node")

    def __init__(self, node: Node, data: Any) -> None:
        self.node = node
        self.data = data
        self.key: str | int | None = 0 if isinstance(data, list) else None
        self.key_mark: Position | None = None
        self.kept = True


class _Builder:
    """What has been read so far: the way of open collections, and the findings."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self.findings: list[Finding] = []
        self.open: list[_Open] = []
        self.nodes = 0
        self.documents = 0
        self.data: Any = None
        self.root: Node | None = None
        self.tabs = _tabs(text)

    def tree(self) -> Tree:
        """The finished tree; raises what was found instead."""
        if not self.findings and not isinstance(self.data, dict):
            mark = self.root.mark if self.root else (1, 1)
            self.find(mark, f"expected a mapping of options, found {found(self.data)}")
        if self.findings or self.root is None:
            raise ConfigError(self.findings)
        return Tree(self.file, self.data, self.root)

    def read(self, events: Iterable[Any]) -> None:
        """Take all events, one by one."""
        for event in events:
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self.scalar(event)
            elif kind is yaml.MappingStartEvent:
                self.start(event, {})
            elif kind is yaml.SequenceStartEvent:
                self.start(event, [])
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self.open.pop()
                self.advance()
            elif kind is yaml.AliasEvent:
                self.alias(event)
            elif kind is yaml.DocumentStartEvent:
                self.document(event)

    def document(self, event: Any) -> None:
        """A pipeline file holds one document."""
        self.documents += 1
        if self.documents > 1:
            self.fail(_mark(event.start_mark), "a second document; a pipeline file holds one")

    def scalar(self, event: Any) -> None:
        """A key, or a value that is no collection."""
        mark = self.enter(event)
        plain = not event.style
        at_key = self.at_key()
        if at_key:
            self.open[-1].key, self.open[-1].key_mark = event.value, mark
        value: Scalar = event.value
        if plain:
            try:
                value = resolve(event.value)
            except ValueError as error:
                self.find(mark, str(error))
        if at_key:
            self.key(event.value, value, plain)
        else:
            self.attach(value, Node(mark, plain))
            self.advance()

    def key(self, text: str, value: Scalar, plain: bool) -> None:
        """Judge the pending key; one that is refused still takes its value, which is then dropped."""
        top = self.open[-1]
        top.kept, mark = False, top.key_mark or (1, 1)
        first = (top.node.children or {}).get(text)
        if plain and text == "<<":
            self.find(mark, "a merge key; write the options out")
        elif not isinstance(value, str):
            self.find(mark, f"expected a text as key, found {found(value)}; quote it if it is meant as text")
        elif first is not None:
            line = first.key_mark[0] if first.key_mark else first.mark[0]
            self.find(mark, f"the key {quoted(text)} again; it is already on line {line}")
        else:
            top.kept = True

    def start(self, event: Any, data: dict[str, Any] | list[Any]) -> None:
        """A collection begins."""
        mark = self.enter(event)
        if len(self.open) >= DEPTH_MAX:
            self.fail(mark, f"more than {DEPTH_MAX} collections inside each other")
        node = Node(mark, children={})
        if self.at_key():
            self.find(mark, f"expected a text as key, found {found(data)}")
        else:
            self.attach(data, node)
        self.open.append(_Open(node, data))

    def alias(self, event: Any) -> None:
        """Aliases are refused: with them a small file can stand for a huge one."""
        mark = _mark(event.start_mark)
        self.find(mark, f"the alias *{event.anchor}; write the value out")
        if not self.at_key():
            self.attach(None, Node(mark))
        self.advance()

    def enter(self, event: Any) -> Position:
        """What holds for every node: limits, no anchor, no tag, no tab before it."""
        mark = _mark(event.start_mark)
        self.nodes += 1
        if self.nodes > NODES_MAX:
            self.fail(mark, f"more than {NODES_MAX} keys and values")
        if event.anchor is not None:
            self.find(mark, f"the anchor &{event.anchor}; leave it out, write values where they are used")
        if event.tag is not None:
            tag = event.tag.replace(_OWN_TAGS, "!!")
            self.find(mark, f"the tag {quoted(tag)}; leave it out, values need none")
        if mark in self.tabs:
            self.find(self.tabs[mark], "a tab; YAML indents with spaces")
        return mark

    def at_key(self) -> bool:
        """True where the next node is a key."""
        return bool(self.open) and self.open[-1].key is None

    def attach(self, value: Any, node: Node) -> None:
        """Put a value where it belongs, unless its key was refused."""
        if not self.open:
            self.data, self.root = value, node
            return
        top = self.open[-1]
        if not top.kept or top.key is None or top.node.children is None:
            return
        node.key_mark = top.key_mark
        top.node.children[top.key] = node
        if isinstance(top.data, list):
            top.data.append(value)
        else:
            top.data[top.key] = value

    def advance(self) -> None:
        """A node is complete: on to the next key or index, or from a refused key to its value."""
        if not self.open:
            return
        top = self.open[-1]
        if isinstance(top.key, int):
            top.key += 1
        elif top.key is None:
            top.key, top.kept = "?", False
        else:
            top.key = None

    def find(self, mark: Position, message: str) -> None:
        """Note a mistake at the place being read; gives up where they become too many."""
        path = tuple(frame.key for frame in self.open if frame.key is not None)
        self.findings.append(Finding(self.file, *mark, dotted(path), message))
        if len(self.findings) >= FINDINGS_MAX:
            raise ConfigError(self.findings)

    def fail(self, mark: Position, message: str) -> NoReturn:
        """Note a mistake after which reading on makes no sense."""
        self.find(mark, message)
        raise ConfigError(self.findings)

    def syntax_error(self, error: yaml.YAMLError) -> None:
        """What the parser could not make sense of, in plain words."""
        mark = getattr(error, "problem_mark", None)
        position = _mark(mark) if mark else (1, 1)
        lines = _LINE_END.split(self.text)
        if position[0] > len(lines):  # a parser takes the end of the file for a line of its own
            position = len(lines), len(lines[-1]) + 1
        self.open.clear()
        tab = next((at for at in self.tabs.values() if at[0] == position[0]), None)
        if tab is not None:
            self.find(tab, "a tab; YAML indents with spaces")
            return
        begun = getattr(error, "context_mark", None)
        message = _syntax_message(
            str(getattr(error, "problem", error)), lines[position[0] - 1], position[1] - 1
        )
        if begun is not None and begun.line + 1 < position[0]:
            message += f" (it began on line {begun.line + 1})"
        self.find(position, message)


_PLAINLY = {
    "mapping values are not allowed": "a ':' where no key can be; check indentation, quote texts with ': '",
    "did not find expected key": "expected another key of the same mapping, or the end of the value before",
    "did not find expected '-'": "expected another '-' of the same list; check the indentation",
    "did not find expected ',' or ']'": "expected ',' or ']' in a [list]",
    "did not find expected ',' or '}'": "expected ',' or '}' in a {mapping}",
    "found unexpected end of stream": "the file ends inside a quoted text",
    "could not find expected ':'": "expected ':' after a key",
    "found unknown escape character": "an unknown escape; in double quotes a backslash is written \\\\",
    "did not find expected node content": "expected a value",
    "block sequence entries are not allowed": "a '-' where no list can begin; begin it on its own line",
    "did not find expected <document start>": "text after the end of the document",
    "exceeded maximum nesting depth": f"more than {DEPTH_MAX} collections inside each other",
}


def _syntax_message(problem: str, line: str, column: int) -> str:
    """A parser's message in the words of a pipeline file's author."""
    if line[max(column - 1, 0) : column + 1] == "${":
        return "a ${...} in a [list] or {mapping} must be in quotes"
    if "cannot start any token" in problem:
        return f"a value cannot begin with {quoted(line[column : column + 1])}; put it in quotes"
    return next((words for start, words in _PLAINLY.items() if problem.startswith(start)), problem)


def _mark(mark: Any) -> Position:
    return mark.line + 1, mark.column + 1


def _tabs(text: str) -> dict[Position, Position]:
    """Tabs in front of lines, by where the line's first word is; inside a block of text one is no mistake."""
    if not _TAB.search(text):
        return {}
    lines = ((number, _TAB.match(line)) for number, line in enumerate(_LINE_END.split(text), 1))
    return {(number, len(match[0]) + 1): (number, match.end(1) + 1) for number, match in lines if match}
