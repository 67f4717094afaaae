"""Messages that travel among the events, and reset keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streamrnn.resets.rules import Rule
from streamrnn.rules import Asked
from streamrnn.values import canonical, canonical_column

if TYPE_CHECKING:
    from streamrnn.builtins import resets as config
    from streamrnn.events import Array, BoolArray, Column
    from streamrnn.rules import Now, Previous


class Control(Rule):
    """Records whose field has a value are messages; one of `keys`, `glob` and `all` says who begins anew."""

    def __init__(self, field: str, value: Any, keys: str, glob: str, everyone: str) -> None:
        super().__init__("control", "initial")
        self.field, self.value = field, canonical(value)
        self._who = (keys, glob, everyone)
        self.message_fields = (field, *self._who)

    def fires(self, now: Now, previous: Previous, columns: Mapping[str, Array]) -> BoolArray:
        """See `ResetRule.fires`; an event never fires this rule."""
        return np.zeros(len(previous.exists), np.bool_)

    def messages(self, fields: Mapping[str, Column]) -> tuple[dict[int, Asked], dict[int, str]]:
        """See `MessageRule.messages`."""
        asked: dict[int, Asked] = {}
        refused: dict[int, str] = {}
        column = fields[self.field]
        if not len(column):
            return asked, refused
        for i in np.flatnonzero(canonical_column(column) == self.value).tolist():
            try:
                asked[i] = self._asked([_plain(fields[path][i]) for path in self._who])
            except ValueError as error:
                refused[i] = f"{self.field}: a control message: {error}"
        return asked, refused

    def _asked(self, who: list[Any]) -> Asked:
        given = [path for path, value in zip(self._who, who, strict=True) if value is not None]
        if len(given) != 1:
            one_of = ", ".join(self._who)
            raise ValueError(f"expected one of {one_of}, found {' and '.join(given) or 'none of them'}")
        keys, glob, everyone = who
        if keys is not None:
            return Asked(keys=_keys(keys, given[0]))
        if glob is not None:
            if not isinstance(glob, str):
                raise ValueError(f"{given[0]}: expected a pattern of keys, found {_shown(glob)}")
            return Asked(glob=glob)
        if everyone is not True:
            raise ValueError(f"{given[0]}: expected true, found {_shown(everyone)}")
        return Asked()


def _keys(value: Any, path: str) -> tuple[str, ...]:
    """The keys of a message: one, or a list of them, of which each may be a list of a key's fields."""
    listed = value if isinstance(value, list) else [value]
    keys = []
    for each in listed:
        fields = each if isinstance(each, list) and each else [each]
        if not all(type(field) in (str, int) for field in fields):
            raise ValueError(f"{path}: expected keys, texts or integers, found {_shown(each)}")
        texts = list(map(str, fields))
        keys.append(msgspec.json.encode(texts).decode() if isinstance(each, list) else texts[0])
    if not keys:
        raise ValueError(f"{path}: expected at least one key, found an empty list")
    return tuple(dict.fromkeys(keys))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


def control(config: config.Control, ticks_per_s: int) -> Control:
    """Build from the YAML section."""
    return Control(config.field, config.equals, config.keys, config.glob, config.everyone)
