"""The lines of a file of refused events."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from streamrnn.errors import SourceError
from streamrnn.refusals import code_of

if TYPE_CHECKING:
    from streamrnn.context import FileSystem

_PIECE_BYTES = 1 << 20
_CUT = ("too_long", "cut_off")


class Letter(msgspec.Struct):
    """One refused event, as `streamrnn.rejects` writes it; `code` is worked out where a line has none."""

    source: str
    partition: str
    number: int
    position: int
    reason: str
    code: str = ""
    raw: str | None = None
    raw_base64: str | None = None

    def __post_init__(self) -> None:
        self.code = self.code or code_of(self.reason)

    @property
    def record(self) -> bytes:
        """The bytes of the event."""
        return (self.raw or "").encode() if self.raw_base64 is None else base64.b64decode(self.raw_base64)

    @property
    def is_whole(self) -> bool:
        """Whether all of its bytes are there."""
        return self.code not in _CUT


def read(fs: FileSystem, path: Path, start: int = 0) -> Iterator[tuple[int, Letter]]:
    """The refused events whose lines begin at byte `start` or later, each with the byte its line ends at.

    A last line that is not complete is left out: a run may be writing it. Raises `SourceError` for a file
    that cannot be read, or a line that is none of a refused event.
    """
    decoder = msgspec.json.Decoder(Letter)
    for end, line in _lines(fs, path, start):
        try:
            letter = decoder.decode(line)
            if (letter.raw is None) == (letter.raw_base64 is None):
                raise msgspec.ValidationError("expected either raw or raw_base64")
            base64.b64decode(letter.raw_base64 or "", validate=True)
        except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error) as error:
            raise SourceError(
                f"{path}: expected refused events as `dead_letter` writes them, found at byte "
                f"{end - len(line)}: {error}"
            ) from error
        yield end, letter


def _lines(fs: FileSystem, path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    try:
        with closing(fs.open_read(path)) as file:
            rest, at = b"", start
            while piece := fs.read_at(file, at, _PIECE_BYTES):
                at += len(piece)
                *lines, rest = (rest + piece).split(b"\n")
                end = at - len(rest) - sum(len(line) + 1 for line in lines)
                for line in lines:
                    end += len(line) + 1
                    yield end, line + b"\n"
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
