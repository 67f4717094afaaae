"""What an output record says, field by field."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from streamrnn.events import Origin
from streamrnn.matching import differences

if TYPE_CHECKING:
    from streamrnn.events import Columns, Frames
    from streamrnn.ports import Codec
    from streamrnn.replay.outputs import Record

_ORIGIN = Origin("outputs", "outputs")
_WHOLE: dict[str, Callable[[bytes], Any]] = {"jsonl": msgspec.json.decode, "msgpack": msgspec.msgpack.decode}
"""Codecs whose records hold their own names; of others the fields that the pipeline writes are read."""


@dataclass
class Values:
    """Reads records of a codec, which is called `name`, with the fields that a pipeline gives them."""

    name: str
    codec: Codec
    fields: Sequence[str]
    _decoded: deque[tuple[Frames, Columns]] = field(default_factory=lambda: deque(maxlen=2), init=False)

    def of(self, record: Record) -> dict[str, Any] | None:
        """The fields of a record; None if it cannot be read."""
        decode = _WHOLE.get(self.name)
        try:
            found = decode(record.data) if decode else self._by_field(record)
        except msgspec.MsgspecError:
            return None
        return found if isinstance(found, dict) else None

    def agree(self, recorded: Record, replayed: Record, tolerance: float) -> bool:
        """Whether both can be read and every field agrees, as `difference` has it."""
        both = self.of(recorded), self.of(replayed)
        return None not in both and self.difference(recorded, replayed, tolerance) is None

    def difference(self, recorded: Record, replayed: Record, tolerance: float) -> tuple[str, str] | None:
        """The first field that differs and how, in words; None if all agree, or one cannot be read.

        Numbers agree if abs(found - expected) <= tolerance * (1 + abs(expected)).
        """
        was, now = self.of(recorded), self.of(replayed)
        if was is None or now is None:
            return None
        for path, message in differences(was, now, tolerance):
            return ".".join(map(str, path)), message
        for name in now:
            if name not in was:
                return name, "expected no such field, found it"
        return None

    def _by_field(self, record: Record) -> dict[str, Any] | None:
        columns = self._columns(record.frames)
        if record.at in columns.refused:
            return None
        return {name: column[record.at] for name, column in columns.fields.items()}

    def _columns(self, frames: Frames) -> Columns:
        """Decoded together: what comes before the first of them may say what the fields are."""
        for known, columns in self._decoded:
            if known is frames:
                return columns
        self._decoded.append((frames, self.codec.decoder(self.fields, ())(frames.block(_ORIGIN))))
        return self._decoded[-1][1]
