"""Refused events as a source: their records, in the order in which they were refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.events import Block, Mark, Origin
from streamrnn.letters.reading import Letter, read
from streamrnn.ports import EndOfStream

if TYPE_CHECKING:
    from pathlib import Path

    from streamrnn.context import FileSystem


class LetterSource:
    """A `Source` of the letters behind byte `done[code]` of the file, of one `code` if it is given.

    A record keeps source, partition, number and position that it had when it was refused. One that was cut
    short then is left out, and counted in `cut`.
    """

    def __init__(
        self, fs: FileSystem, path: Path, done: Mapping[str, int], code: str | None, partitioned: bool
    ) -> None:
        self.partitioned = partitioned
        self.has_ended = False
        self.done = dict(done)
        """By code, the byte up to which letters are served, skipped ones included."""
        self.again = self.cut = 0
        """Letters that were left out: served by an earlier replay, or cut short."""
        self.served: Counter[str] = Counter()
        """Letters that were read, by code."""
        self._code, self._before = code, dict(done)
        self._letters = self._chosen(read(fs, path))
        self._next = next(self._letters, None)

    def read(self, limit: int, wait_ms: int) -> Block | Mark | None:
        """See `Source.read`: letters that follow one another and are of one partition."""
        if self._next is None:
            self.has_ended = True
            raise EndOfStream
        first, found = self._next, list[Letter]()
        while (letter := self._next) is not None and len(found) < limit:
            if (letter.source, letter.partition) != (first.source, first.partition):
                break
            found.append(letter)
            self._next = next(self._letters, None)
        self.served.update(letter.code for letter in found)
        return _block(found)

    def position(self) -> Mapping[str, int]:
        """See `Source.position`: the partitions are those of the letters, which have no next read."""
        return {}

    def close(self) -> None:
        """See `Source.close`."""
        self._letters.close()

    def _chosen(self, letters: Iterator[tuple[int, Letter]]) -> Generator[Letter, None, None]:
        for end, letter in letters:
            if self._code not in (None, letter.code):
                continue
            if end <= self._before.get(letter.code, 0):
                self.again += 1
                continue
            self.done[letter.code] = end
            if letter.is_whole:
                yield letter
            else:
                self.cut += 1


def _block(letters: list[Letter]) -> Block:
    records = [letter.record for letter in letters]
    lengths = np.array([len(record) for record in records], np.int64)
    # A line break between them keeps lines decodable in one go.
    ends = np.cumsum(lengths + 1) - 1
    return Block(
        b"\n".join(records),
        ends - lengths,
        ends,
        np.array([letter.position for letter in letters], np.int64),
        np.array([letter.number for letter in letters], np.int64),
        Origin(letters[0].source, letters[0].partition),
    )
