from __future__ import annotations

import pytest

from streamrnn.config.environment import substitute
from streamrnn.config.yaml_tree import load

ENV = {
    "GROUP": "g1",
    "N": "12",
    "X": "1e-3",
    "EMPTY": "",
    "YES": "true",
    "NIL": "~",
    "TWO": "a\nb",
    "INF": ".inf",
    "STRUCTURE": "{a: [1, 2]}",
    "COMMENT": "a # b",
    "DOLLAR": "${N} $$",
    "BYTES": "\udcff",
    "_a1": "low",
}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${GROUP}", "g1"), ("a-${GROUP}-${N}", "a-g1-12"), ("${N}", 12), ("'${N}'", "12"), ('"${N}"', "12"),
        ("|-\n  ${N}", "12"), ("${N}${N}", "1212"), ("${N} ", 12), ("x${N}", "x12"), ("${X}", 0.001),
        ("${YES}", True),
        ("${NIL}", None), ("${EMPTY}", None), ("'${EMPTY}'", ""), ("a${EMPTY}", "a"), ("${_a1}", "low"),
        ("${NO:-5}", 5), ("${EMPTY:-5}", 5), ("${N:-5}", 12), ("${NO:-}", None), ("'${NO:-}'", ""),
        ("${NO:-a b}", "a b"),
        ("${NO:-a:-b}", "a:-b"), ("${NO:-$5}", "$5"), ("${N:?needed}", 12), ("'${TWO}'", "a\nb"),
        ("${STRUCTURE}", "{a: [1, 2]}"),
        ("${COMMENT}", "a # b"), ("${DOLLAR}", "${N} $$"), ("$$", "$"), ("$${N}", "${N}"),
        ("$$${N}", "$12"), ("$$$", "$$"),
        ("$$$$", "$$"), ("$abc", "$abc"), ("$N", "$N"), ("a$", "a$"), ("$ {N}", "$ {N}"), ("$(N)", "$(N)"),
        ("$", "$"),
        ("one\n\n  two $$", "one\ntwo $"), ("'$abc'", "$abc"), ("[a, '${N}', $$]", ["a", "12", "$"]),
        ("{a: ['${GROUP}'], '${N}': 1}", {"a": ["g1"], "${N}": 1}), ("${N}}", "12}"),
    ],
)  # fmt: skip
def test_values(written: str, value: object) -> None:
    tree = load(f"a: {written}\n", "f")
    assert substitute(tree, ENV) == []
    assert tree.data == {"a": value}
    assert type(tree.data["a"]) is type(value)


FORMS = "expected ${NAME}, ${NAME:-default} or ${NAME:?message}"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("${NO}", "environment variable NO is not set; give a default with ${NO:-...}"),
        ("${NO:?the group to join}", "the group to join"),
        ("${EMPTY:?the group to join}", "the group to join"),
        ("${NO:?}", "environment variable NO is not set or empty"),
        ("${N", f"{FORMS}, found '${{N' without a closing brace"),
        ("${NO:-a #b}", f"{FORMS}, found '${{NO:-a' without a closing brace"),
        ("${}", f"{FORMS}, found '${{}}'; write $$ for a $ before a brace"),
        ("${1A}", f"{FORMS}, found '${{1A}}'; write $$ for a $ before a brace"),
        ("${A B}", f"{FORMS}, found '${{A B}}'; write $$ for a $ before a brace"),
        ("${NO-5}", f"{FORMS}, found '${{NO-5}}'; write $$ for a $ before a brace"),
        ("${NO:-${N}}", f"{FORMS}, found '${{NO:-${{N}}'; write $$ for a $ before a brace"),
        ("${TWO}", "'${TWO}' gives more than one line; put it in quotes if that is meant"),
        ("x ${TWO}", "'x ${TWO}' gives more than one line; put it in quotes if that is meant"),
        ("${INF}", "expected a finite number, found .inf; quote it if it is a text"),
        ("'${BYTES}'", "environment variable BYTES is not UTF-8"),
    ],
)
def test_findings(written: str, message: str) -> None:
    tree = load(f"x: 1\na:\n  - b: {written}\n", "f")
    before = tree.data["a"][0]["b"]
    assert [str(finding) for finding in substitute(tree, ENV)] == [f"f:3:8: a.0.b: {message}"]
    assert tree.data["a"][0]["b"] == before


def test_all_findings_at_once_and_the_rest_substituted() -> None:
    tree = load("a: ${NO}\nb: ${N}\nc: [{d: '${NO}'}]\n", "f")
    assert sorted(finding.path for finding in substitute(tree, ENV)) == ["a", "c.0.d"]
    assert tree.data == {"a": "${NO}", "b": 12, "c": [{"d": "${NO}"}]}


def test_tree_remembers_what_was_written() -> None:
    tree = load("a: ${N}\nb: $N\nc: 12\n", "f")
    substitute(tree, ENV)
    nodes = [tree.node((key,)) for key in "abc"]
    assert [node.source for node in nodes if node] == ["${N}", None, None]


def test_many_unclosed_braces_take_no_time() -> None:
    tree = load("a: '" + "${" * 500_000 + "'\n", "f")
    assert len(substitute(tree, ENV)) == 1
