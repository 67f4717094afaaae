"""Decompressed bytes of a gzip file, piece by piece."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, BinaryIO

from streamrnn.errors import SourceError

if TYPE_CHECKING:
    from zlib import _Decompress

_INPUT_BYTES = 1 << 16
_GZIP = 16 + zlib.MAX_WBITS
_FREE_BYTES = 1 << 20
"""How much may come out before the ratio is looked at; a few bytes can stand for much more at first."""


class GzipReader:
    """Reads a gzip file of one member or many (RFC 1952); zero bytes between members are padding.

    What is damaged is told with the byte of the file where it shows, after everything that came before it
    was given. A checksum shows only at the end of its member, when all of that has been given.
    """

    def __init__(self, stream: BinaryIO, name: str, max_ratio: float) -> None:
        self._stream, self._name, self._max_ratio = stream, name, max_ratio
        self._input = b""
        self._read_bytes = 0
        self._given_bytes = 0
        self._member = 0
        """Where the current member begins, or where the last one ended."""
        self._inflate: _Decompress | None = None
        self._failure: str | None = None

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end.

        Raises `SourceError` for a file that is torn, damaged or expands too much, and `OSError`.
        """
        while self._failure is None:
            if not self._input:
                self._input = self._stream.read(_INPUT_BYTES)
                self._read_bytes += len(self._input)
            if self._inflate is None and not self._next_member():
                return b""
            if self._inflate is None:
                continue
            ended = not self._input
            if data := self._decompress(size):
                self._given_bytes += len(data)
                self._check_ratio()
                return data
            if ended and self._failure is None and self._inflate is not None:
                self._fail(f"the file ends within the gzip member that begins at byte {self._member}")
        raise SourceError(self._failure)

    @property
    def _at(self) -> int:
        """Bytes of the file that were used."""
        return self._read_bytes - len(self._input)

    def _next_member(self) -> bool:
        """Begin the member that comes next, if there is one; False at the end of the file."""
        if not self._input:
            if self._at == 0:
                self._fail("expected a gzip file, found an empty one")
                return True
            return False
        if self._at > 0:
            self._input = self._input.lstrip(b"\0")
        if self._input:
            self._member = self._at
            self._inflate = zlib.decompressobj(_GZIP)
        return True

    def _decompress(self, size: int) -> bytes:
        assert self._inflate is not None
        # An object that failed is of no use any more, and what it had made in that call is lost.
        before = self._inflate.copy()
        given = self._input
        try:
            data = self._inflate.decompress(given, size)
        except zlib.error as error:
            data = self._up_to_damage(before, given, size, error)
        else:
            self._input = self._inflate.unused_data or self._inflate.unconsumed_tail
        if self._inflate.eof:
            self._inflate = None
            self._member = self._at
        return data

    def _up_to_damage(self, inflate: _Decompress, given: bytes, size: int, error: zlib.error) -> bytes:
        """What can be had from `given` before the byte that `error` is about, halving the way to it."""
        found, behind = bytearray(), b""
        while len(given) > 1 and len(found) < size:
            half = len(given) // 2
            before = inflate.copy()
            try:
                found += inflate.decompress(given[:half], size - len(found))
            except zlib.error:
                inflate, given, behind = before, given[:half], given[half:] + behind
            else:
                given = inflate.unconsumed_tail + given[half:]
        self._input, self._inflate = given + behind, inflate
        if len(found) < size:
            found += _last_bytes(inflate, given, size - len(found))
            reason = str(error).rpartition(": ")[2]
            self._fail(f"damaged in the gzip member that begins at byte {self._member}: {reason}")
        return bytes(found)

    def _check_ratio(self) -> None:
        if self._given_bytes > max(_FREE_BYTES, self._max_ratio * self._at):
            self._fail(
                f"expected at most {self._max_ratio:g} times as many bytes as in the file, found "
                f"{self._given_bytes} from {self._at}; set max_ratio higher if the file can be trusted"
            )

    def _fail(self, what: str) -> None:
        self._failure = f"{self._name}: byte {self._at}: {what}"


def _last_bytes(inflate: _Decompress, last: bytes, size: int) -> bytes:
    """What one byte stands for before the damage in it, step by step: the one that fails gives nothing."""
    found = bytearray()
    try:
        while len(found) < size and (data := inflate.decompress(last, 1)):
            found += data
            last = inflate.unconsumed_tail
    except zlib.error:
        pass
    return bytes(found)
