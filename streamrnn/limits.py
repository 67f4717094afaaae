"""What the core is told beside the model and the rules: its ceilings, keyed features and cause bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from streamrnn.events import Array
    from streamrnn.rules import ResetRule

NEW, EVICTED, EXPIRED, UNKNOWN, CONTROL = (1 << bit for bit in range(5))
FIRST_RULE_BIT = 5
MAX_RULES = 48
Policy = Literal["keep_previous", "reset", "quarantine"]
"""What becomes of a key of which the guard refuses an event: it keeps its state; begins anew; or has every
event refused until it is reset by hand."""
INITIAL, ZEROS = 1, 2


@dataclass(frozen=True)
class Limits:
    """Ceilings of one shard. Times are in the unit of the pipeline's `event.time`.

    `idle`: a key whose last event lies further back starts anew; `max_ahead`: how far an event may run ahead
    of the largest time of its source. `remember_evicted` keys are told from new ones when they come back.
    Rows of idle keys are freed after every `collect_every` accepted events. With `refuse_new`, events of a
    new key are refused once there are `max_keys`, instead of evicting the key whose last event is oldest.
    `hot_keys` of them, at least 4, are in memory where there is a place for the others. `guard` says what
    becomes of a key whose new state or output is not finite, or whose state is over `max_state_norm`.
    """

    max_keys: int = 1_000_000
    refuse_new: bool = False
    hot_keys: int | None = None
    idle: int | None = None
    max_ahead: int | None = None
    max_state_norm: float | None = None
    max_value_bytes: int = 1024
    remember_evicted: int = 1_000_000
    collect_every: int = 65_536
    guard: Policy = "keep_previous"


@dataclass(frozen=True)
class Elapsed:
    """A keyed feature: the time since the key's last event, in column `column` of model input `input`.

    `scale` turns time units into what the model wants; `first` stands where there is no last event, and
    after a reset too unless `across_reset`. `then` maps a float64 array [n, 1] to one of the same shape.
    """

    input: str
    column: int
    scale: float
    first: float = 0.0
    across_reset: bool = True
    then: Callable[[Array], Array] | None = None


def cause_names(rules: Sequence[ResetRule], limits: Limits) -> tuple[str, ...]:
    """Names of the cause bits, lowest first: the built-in ones, the rules in file order, maybe the guard."""
    guard = ("guard",) if limits.guard == "reset" else ()
    return ("new", "evicted", "expired", "unknown", "control", *(rule.name for rule in rules), *guard)


def guard_bit(rules: Sequence[ResetRule]) -> int:
    """The cause bit of a reset by the guard: behind those of the rules, whose places in old segments stay."""
    return 1 << (FIRST_RULE_BIT + len(rules))


def key_hash(key: str) -> int:
    """The stable 64-bit hash of a key (blake2b, 8 bytes, big endian); never Python's own."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
