from __future__ import annotations

import random
import time

import pytest

from streamrnn.config.yaml_tree import BYTES_MAX, DEPTH_MAX, NODES_MAX, Tree, load
from streamrnn.errors import ConfigError

SAMPLE = """\
name: next-letter
source: {type: stdin}
decode: {type: jsonl}
event:
  key: typist
  time: {field: ts, unit: ms}
  inputs:
    x: [{field: letter, one_hot: "$abcdefghijklmnopqrstuvwxyz"}]
reset:
  - {type: on_change, field: word}
  - type: gap
    gap_s: 30
model:
  type: formula   # the textbook's example
  update: {H: "2*H + x"}
  text: |
    more
     than one line
limits: {max_keys: 1000000, ratio: 1e-3, name: 'it''s'}
tests:
  - name: HOUS is followed by E
    input:  [{typist: a, word: 1, letter: h}, {typist: a, word: 1, letter: o}]
    output: [{}, {next.0: e}]
"""


def read(text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, "f")
    return str(caught.value).split("\n")


def test_sample_is_plain_data() -> None:
    assert load(SAMPLE, "f").data == {
        "name": "next-letter",
        "source": {"type": "stdin"},
        "decode": {"type": "jsonl"},
        "event": {
            "key": "typist",
            "time": {"field": "ts", "unit": "ms"},
            "inputs": {"x": [{"field": "letter", "one_hot": "$abcdefghijklmnopqrstuvwxyz"}]},
        },
        "reset": [{"type": "on_change", "field": "word"}, {"type": "gap", "gap_s": 30}],
        "model": {"type": "formula", "update": {"H": "2*H + x"}, "text": "more\n than one line\n"},
        "limits": {"max_keys": 1000000, "ratio": 0.001, "name": "it's"},
        "tests": [
            {
                "name": "HOUS is followed by E",
                "input": [
                    {"typist": "a", "word": 1, "letter": "h"},
                    {"typist": "a", "word": 1, "letter": "o"},
                ],
                "output": [{}, {"next.0": "e"}],
            }
        ],
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("Null", None), ("NULL", None), ("nULL", "nULL"),
        ("true", True), ("True", True), ("TRUE", True), ("false", False), ("False", False), ("FALSE", False),
        ("tRUE", "tRUE"), ("on", "on"), ("off", "off"), ("yes", "yes"), ("no", "no"), ("y", "y"), ("N", "N"),
        ("0", 0), ("-0", 0), ("+7", 7), ("-19", -19), ("0123", 123), ("0o14", 12), ("0xC", 12), ("0xfF", 255),
        ("-0xC", "-0xC"), ("0o8", "0o8"), ("0b11", "0b11"), ("0X1", "0X1"), ("1_000", "1_000"),
        ("9" * 100, int("9" * 100)), ("22:22", "22:22"), ("12:30:45", "12:30:45"),
        ("190:20:30.15", "190:20:30.15"),
        ("1e3", 1000.0), ("1E+3", 1000.0), (".5", 0.5), ("-.5", -0.5), ("5.", 5.0), ("1.5e-3", 0.0015),
        ("0.", 0.0), (".", "."), ("+", "+"), ("-a", "-a"), ("1e", "1e"), ("e3", "e3"), ("1.2.3", "1.2.3"),
        ("1e-999", 0.0), ("inf", "inf"), ("nan", "nan"), ("2024-01-31", "2024-01-31"), ("=", "="),
        ("<<", "<<"),
        ("١٢", "١٢"), ("a b", "a b"), ("a#b", "a#b"), ("$abc", "$abc"), ("\"\"", ""), ("'1'", "1"),
        ('"null"', "null"),
        ('"\\x07\\u2028\\U0001F600"', "\x07\u2028\U0001f600"), ("|-\n  1", "1"), (">-\n  true\n", "true"),
        ("one\n  two", "one two"), ("1\n  - 2", "1 - 2"), ("|-\n  x\n  \ty", "x\n\ty"), ("'x\n\t y'", "x y"),
        ("[]", []), ("{}", {}), ("[on, 1, [~]]", ["on", 1, [None]]), ('{"a":1}', {"a": 1}),
        ("[a: 1]", [{"a": 1}]), ("\n- 1\n- 2", [1, 2]), ("\n  on: 1\n  y: 2", {"on": 1, "y": 2}), ("\t1", 1),
    ],
)  # fmt: skip
def test_values_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    found = load(f"a: {text}\n", "f").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_accepted_forms_of_a_file() -> None:
    for text in (
        "a: 1",
        "\ufeffa: 1\n",
        b"\xef\xbb\xbfa: 1\r\n",
        b"---\na: 1\n...\n",
        "{a: 1}",
        "# c\n\na: 1\r",
        "? a\n: 1\n",
    ):
        assert load(text, "f").data == {"a": 1}


REFUSED = {
    "": ["f:1:1: expected a mapping of options, found nothing"],
    "# only a comment\n": ["f:1:1: expected a mapping of options, found nothing"],
    "- 1\n": ["f:1:1: expected a mapping of options, found a list"],
    "a:1\n": ["f:1:1: expected a mapping of options, found the text 'a:1'"],
    "a: 1\n---\nb: 2\n": ["f:2:1: a second document; a pipeline file holds one"],
    "a: &x 1\nb: *x\n": [
        "f:1:4: a: the anchor &x; leave it out, write values where they are used",
        "f:2:4: b: the alias *x; write the value out",
    ],
    "x: {a: 1}\nb:\n  <<: {c: 1}\n": ["f:3:3: b.<<: a merge key; write the options out"],
    "a: !!int 1\nb: !x [1]\n": [
        "f:1:4: a: the tag '!!int'; leave it out, values need none",
        "f:2:4: b: the tag '!x'; leave it out, values need none",
    ],
    "a: 1\nb:\n  c: 1\n  c: {c: .nan}\na: 2\n": [
        "f:4:3: b.c: the key 'c' again; it is already on line 3",
        "f:4:10: b.c.c: expected a finite number, found .nan; quote it if it is a text",
        "f:5:1: a: the key 'a' again; it is already on line 1",
    ],
    "5: x\n~: y\ntrue: z\n": [
        "f:1:1: 5: expected a text as key, found the number 5; quote it if it is meant as text",
        "f:2:1: ~: expected a text as key, found nothing; quote it if it is meant as text",
        "f:3:1: true: expected a text as key, found true; quote it if it is meant as text",
    ],
    "a: 1\n? [1, {b: 2}]\n: 2\n? {c: 3}\nd: 1\nd: 2\n": [
        "f:2:3: expected a text as key, found a list",
        "f:4:3: expected a text as key, found a mapping",
        "f:6:1: d: the key 'd' again; it is already on line 5",
    ],
    "*x : 1\na: 1\n": ["f:1:1: the alias *x; write the value out"],
    "a:\n\tb: 1\n": ["f:2:1: a tab; YAML indents with spaces"],
    "a:\n  - x\n \t- y\n": ["f:3:2: a tab; YAML indents with spaces"],
    "a: [\n\t1,\n\t2, 3]\n": [
        "f:2:1: a.0: a tab; YAML indents with spaces",
        "f:3:1: a.1: a tab; YAML indents with spaces",
    ],
    "a: é\U0001f600\x07\n": ["f:1:6: the character U+0007; write it as an escape, in double quotes"],
    "a: x\n\n  y\u2028z\n": ["f:3:4: the character U+2028; write it as an escape, in double quotes"],
    "\ufeffa: \ufeff1": ["f:1:4: the character U+FEFF; write it as an escape, in double quotes"],
    "a: \ud800": ["f:1:4: the character U+D800; write it as an escape, in double quotes"],
    "# c\n%TAG ! x\n---\na: 1\n": ["f:2:1: a line that begins with %; leave YAML directives out"],
    "a: .inf\nb: [-.INF, .NaN]\n": [
        "f:1:4: a: expected a finite number, found .inf; quote it if it is a text",
        "f:2:5: b.0: expected a finite number, found -.INF; quote it if it is a text",
        "f:2:12: b.1: expected a finite number, found .NaN; quote it if it is a text",
    ],
    "a: 1e999\n": ["f:1:4: a: expected a number that a float can hold, found '1e999'"],
    f"a: {'9' * 5000}\n": ["f:1:4: a: an integer of 5000 characters, the limit is 100; quote a text"],
    f"a: 0x{'f' * 5000}\n": ["f:1:4: a: an integer of 5002 characters, the limit is 100; quote a text"],
    "a: b: c\n": ["f:1:5: a ':' where no key can be; check indentation, quote texts with ': '"],
    "a: 'x\n": ["f:2:1: the file ends inside a quoted text (it began on line 1)"],
    "a: [1, 2\nb: 3\n": ["f:2:2: expected ',' or ']' in a [list] (it began on line 1)"],
    "a: {b: 1\n": ["f:2:1: expected ',' or '}' in a {mapping} (it began on line 1)"],
    "a: {b: ${N}}\n": ["f:1:9: a ${...} in a [list] or {mapping} must be in quotes"],
    "a: @x\n": ["f:1:4: a value cannot begin with '@'; put it in quotes"],
    "a:\n  - 1\n  b: 2\n": [
        "f:3:3: expected another '-' of the same list; check the indentation (it began on line 2)",
    ],
    "a: \"\\d\"\n": ["f:1:5: an unknown escape; in double quotes a backslash is written \\\\"],
    "a: 1\na: 2\nb: ]\n": [
        "f:2:1: a: the key 'a' again; it is already on line 1",
        "f:3:4: expected a value",
    ],
    '"\\e[31m": 1\n"\\e[31m": 2\n': ["f:2:1: \\x1b[31m: the key '\\x1b[31m' again; it is already on line 1"],
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text)[:40])
def test_refusals_name_the_place(text: str) -> None:
    assert read(text) == REFUSED[text]


def test_bytes_that_are_not_utf_8() -> None:
    assert read(b"a: 1\n\xc3\xa9: \xff\n") == [
        "f:2:4: expected UTF-8, found the byte 0xff; save the file as UTF-8"
    ]
    assert read("a: 1".encode("utf-16")) == [
        "f:1:1: expected UTF-8, found the byte 0xff; save the file as UTF-8"
    ]


BOMB = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(20_000))
HOSTILE = [
    ("a: " + "[" * 100_000, f"more than {DEPTH_MAX} collections inside each other"),
    # libyaml counts levels itself since 0.2.6, and gets there before the second mapping is seen as a key.
    (
        "{" * 100_000,
        f"expected a text as key, found a mapping|more than {DEPTH_MAX} collections inside each other",
    ),
    ("- " * 100_000, f"more than {DEPTH_MAX} collections inside each other"),
    ("? " * 100_000, "expected a text as key, found a mapping"),
    ("a: 1\n" * 400_000, f"2000000 bytes; a pipeline file has at most {BYTES_MAX}"),
    ("\U0001f600" * 300_000, f"1200000 bytes; a pipeline file has at most {BYTES_MAX}"),
    (BOMB, "the anchor &a; leave it out, write values where they are used"),
    (
        "".join(f"%TAG !t{n}! x:\n" for n in range(50_000)),
        "a line that begins with %; leave YAML directives out",
    ),
    ("a: 1\n" * 150_000, "the key 'a' again; it is already on line 1"),
]


@pytest.mark.parametrize(("text", "message"), HOSTILE, ids=lambda text: repr(text)[:12])
def test_hostile_files_are_refused_at_once(text: str, message: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        load(text, "f")
    assert time.perf_counter() - start < 0.3
    assert caught.value.findings[0].message in message.split("|")
    assert len(caught.value.findings) <= 100


def test_limits_are_sharp() -> None:
    deep = "a: " + "[" * (DEPTH_MAX - 1) + "]" * (DEPTH_MAX - 1)
    assert load(deep, "f").data
    assert read(deep.replace("[]", "[[]]"))[0].endswith("more than 64 collections inside each other")
    wide = f"a: [{'1,' * (NODES_MAX - 3)}"
    assert len(load(wide + "]", "f").data["a"]) == NODES_MAX - 3
    assert read(wide + "1]")[0].endswith("more than 100000 keys and values")
    assert load("a: " + "x" * (BYTES_MAX - 3), "f").data
    assert read("a: " + "x" * (BYTES_MAX - 2))


@pytest.mark.parametrize(
    ("path", "mark", "key_mark"),
    [
        ((), (1, 1), (1, 1)),
        (("name",), (1, 7), (1, 1)),
        (("event",), (5, 3), (4, 1)),
        (("event", "time", "unit"), (6, 27), (6, 21)),
        (("reset",), (10, 3), (9, 1)),
        (("reset", 1), (11, 5), (11, 5)),
        (("reset", 1, "gap_s"), (12, 12), (12, 5)),
        (("model", "text"), (16, 9), (16, 3)),
        (("limits", "name"), (19, 48), (19, 42)),
        (("event", "input"), (4, 1), (4, 1)),
        (("event", "time", "zone", "name"), (6, 3), (6, 3)),
        (("reset", 7), (9, 1), (9, 1)),
        (("reset", 0, "when"), (10, 5), (10, 5)),
        (("name", "first"), (1, 7), (1, 7)),
        (("nothing",), (1, 1), (1, 1)),
    ],
)
def test_marks(path: tuple[str | int, ...], mark: tuple[int, int], key_mark: tuple[int, int]) -> None:
    tree = load(SAMPLE, "f")
    assert (tree.mark(path), tree.key_mark(path)) == (mark, key_mark)


def test_tree_knows_plain_scalars_and_values() -> None:
    tree = load(SAMPLE, "f")
    plain = {
        path: node.plain
        for path in [("name",), ("limits", "name"), ("model", "text")]
        if (node := tree.node(path))
    }
    assert plain == {("name",): True, ("limits", "name"): False, ("model", "text"): False}
    assert tree.value(("reset", 1, "gap_s")) == 30
    assert tree.node(("reset", 2)) is None


def test_mutated_files_raise_config_errors_only() -> None:
    chance = random.Random(7)
    alphabet = b"\t\n\r :-{}[]'\"&*!|>%#,?@`~$\\\x00\x07\x80\xc3\xe2\xff0e.a<"
    whole = SAMPLE.encode()
    outcomes: list[Tree | ConfigError] = []
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data))
            size = chance.choice((0, 1, 1, 2, 20))
            data[at : at + size] = bytes(chance.choices(alphabet, k=chance.choice((0, 1, 1, 2, 4))))
        try:
            outcomes.append(load(bytes(data), "f"))
        except ConfigError as error:
            outcomes.append(error)
        lines = data.count(b"\n") + data.count(b"\r") + 1
        findings = getattr(outcomes[-1], "findings", ())
        assert all(1 <= finding.line <= lines and finding.column >= 1 for finding in findings)
    assert {type(outcome) for outcome in outcomes} == {Tree, ConfigError}
