"""The names of what Kafka keeps of a record beside its value."""

from __future__ import annotations

from difflib import get_close_matches

PREFIX = "kafka."
HEADER = "kafka.headers."
TIMESTAMP = "kafka.timestamp"
NAMES = ("kafka.key", TIMESTAMP, "kafka.offset", "kafka.partition", "kafka.topic")


def field_problem(path: str) -> str | None:
    """What is wrong with a path, if it begins as Kafka's do and no record has it."""
    if not path.startswith(PREFIX) or path in NAMES or (path.startswith(HEADER) and path != HEADER):
        return None
    close = get_close_matches(path, NAMES, 1)
    hint = f", did you mean {close[0]}?" if close else ";"
    return f"a record of Kafka has no field {path}{hint} it has {', '.join(NAMES)} and {HEADER}NAME"
