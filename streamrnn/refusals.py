"""Why events are refused, as codes that stay the same when the words of a reason do not.

A reason is a sentence wherever it travels: through a log, over a socket, from a plugin. What it is about is
read off here, in the one place that knows all the ways in which an event can be refused.
"""

from __future__ import annotations

import re
from functools import lru_cache

OTHER = "other"
"""The code of what a plugin or another version refused in words of its own."""

CRASH_SUSPECT = "the process died three times running while it served this event alone"
"""The reason of an event that is parked."""

CODES = {
    "deadline": (
        r"^the model refused it: ModelError: no answer within",
        "the model had no answer to this event alone within `limits.step_deadline_s`",
    ),
    "model_refused": (r"^the model refused it", "the model raised an error on this event alone"),
    "state_not_finite": (
        r"^the model's new state or output is not finite",
        "the model answered with an infinity or NaN",
    ),
    "state_norm": (r"^the norm of the model's new state", "the new state was over `limits.max_state_norm`"),
    "quarantined": (
        r"^the key is in quarantine",
        "an event of the key was refused before, and `limits.guard` is `quarantine`",
    ),
    "crash_suspect": (
        r"^the process died",
        "parked: the process died three times while it served this event alone",
    ),
    "too_long": (
        r"^(line|record) of more than \d+ bytes|^(record|value) of \d+ bytes, more than",
        "over the limit of bytes; only the beginning was kept",
    ),
    "cut_off": (
        r"in the midst of (this record|a line)$|^the line was not complete within",
        "the stream ended before the record did",
    ),
    "seq_conflict": (
        r"^sequence number \d+ of .* belongs to another record",
        "a producer used a number of the ingest log again, with other content",
    ),
    "envelope": (r'^expected {"time": \.\.\.', "a line of a log that is not as logs have them"),
    "no_value": (r"^a record without a value", "a record of Kafka without a value"),
    "utf8": (r"(^|: )not valid UTF-8", "not UTF-8"),
    "nesting": (r"^nested too deeply", "objects or lists inside each other, too many"),
    "json": (r"^not valid JSON", "not JSON"),
    "msgpack": (
        r"^not valid MessagePack|^expected no extension types|^expected texts as the keys",
        "not MessagePack, or of a kind that is not read",
    ),
    "header": (r"in the header$|^expected a header", "a CSV header that is missing or names a field twice"),
    "duplicate_field": (r"stands twice", "a field stands twice"),
    "csv": (r"^expected quotes around|^expected \d+ fields", "quotes or the number of fields are wrong"),
    "ahead": (r"^time: further ahead", "later than `limits.max_ahead_s` allows"),
    "late": (r"^time: further behind", "earlier than `order.max_behind_s` allows"),
    "duplicate": (r"^an event with this id was read", "the id of an event that was read before"),
    "no_room": (r"^no room to wait", "more events wait for their turn than `order` allows"),
    "time": (r": expected a (time|whole number)", "no time, or one out of range"),
    "full": (r"^key: a new one, and limits", "a new key, `limits.max_keys` are held, and `on_full: refuse`"),
    "key": (r": (expected a key|a key of more than)", "no key, or one too long"),
    "id": (r": (expected an id|an id of more than)", "no id for `order.duplicates`, or one too long"),
    "field_too_long": (r": a reset rule keeps at most", "a field that a rule keeps is too long"),
    "control": (r": a control message:", "a message of the rule `control` that does not say who is meant"),
    "missing_field": (r": missing;", "a field is missing or null"),
    "unknown_value": (r": expected one of the \d+ known values", "a category that is not listed"),
    "range": (
        r"^number (of more than|out of range)|: beyond the range of|expected a number (above|within)",
        "a number beyond what can be held or computed with",
    ),
    "not_finite": (r"expected (a )?finite numbers?", "an infinity or NaN"),
    "wrong_type": (
        r"expected (a JSON object|a map|an array|a number|a list of|binary)",
        "a value of another kind than is read",
    ),
}
"""By code, the way its reasons are worded and what it means; the first that fits counts."""

_PATTERNS = [(code, re.compile(pattern)) for code, (pattern, _) in CODES.items()]
_WITH_NOTHING = ("model_refused", "time", "key", "id")
"""Codes that a reason keeps which found nothing where it expected something."""


def code_of(reason: str) -> str:
    """The code of a reason. What an event holds, which reasons quote at their end, does not matter."""
    said, _, value = reason.partition(", found ")
    code = _code_of(said)
    return "missing_field" if value == "nothing" and code not in _WITH_NOTHING else code


@lru_cache(maxsize=1024)
def _code_of(said: str) -> str:
    return next((code for code, pattern in _PATTERNS if pattern.search(said)), OTHER)
