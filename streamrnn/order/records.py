"""Records that wait, as they lie in the blocks they came in; and blocks made of them in another order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streamrnn.events import Block, Origin

if TYPE_CHECKING:
    from streamrnn.events import Array, Column, IntArray

Heads = Callable[[Block], Sequence[tuple[int, bytes]]]
"""The first record of each stretch, and what must stand before it for it to be read, such as a header."""

TIME, SIZE, CHUNK, ROW, START, POSITION, NUMBER, CONNECTION = range(8)
"""Rows of an int64 [8, n] table of records: their event's time, their bytes, and where they are."""

_SEPARATION_BYTES = 2
"""No more than a line end lies between records that follow each other under the same head."""


@dataclass
class Chunk:
    """A block of which `left` records wait. `fields` are lists."""

    block: Block
    heads: Sequence[tuple[int, bytes]]
    fields: Mapping[str, Sequence[Any]]
    left: int = 0

    @classmethod
    def of(cls, block: Block, heads: Heads | None) -> Chunk:
        """A block, none of whose records waits yet."""
        fields = {name: _listed(column) for name, column in block.fields.items()}
        return cls(block, heads(block) if heads else [(0, b"")], fields)

    def head(self, row: int) -> bytes:
        """What must stand before a record."""
        return self.heads[bisect_right(self.heads, row, key=lambda stretch: stretch[0]) - 1][1]


def table(block: Block, rows: IntArray, time: IntArray, chunk: int) -> IntArray:
    """Records of a block that is to be known as `chunk`."""
    starts = block.starts[rows]
    connection = np.full(len(rows), -1) if block.connection is None else block.connection[rows]
    columns = [
        time,
        block.ends[rows] - starts,
        np.full(len(rows), chunk),
        rows,
        starts,
        block.positions[rows],
        block.numbers[rows],
        connection,
    ]
    return np.stack(columns).astype(np.int64)


def gather(chunks: Mapping[int, Chunk], records: IntArray) -> Block:
    """The records of a table, one at least, as one block in their order."""
    chunk, rows, starts, size = records[CHUNK], records[ROW], records[START], records[SIZE]
    gaps = starts[1:] - starts[:-1] - size[:-1]
    follows = (chunk[1:] == chunk[:-1]) & (rows[1:] == rows[:-1] + 1)
    follows &= (gaps >= 0) & (gaps <= _SEPARATION_BYTES)
    firsts = np.append(0, np.flatnonzero(~follows) + 1)
    behind = np.append(firsts[1:], len(rows))
    pieces, begins = _pieces(chunks, records, firsts, behind - 1)
    begins = starts + np.repeat(begins - starts[firsts], behind - firsts)
    connection = None if (records[CONNECTION] == -1).all() else records[CONNECTION]
    places = list(zip(chunk.tolist(), rows.tolist(), strict=True))
    origins = _origins(chunks, places)
    return Block(
        b"".join(pieces),
        begins,
        begins + size,
        records[POSITION],
        records[NUMBER],
        origins[0],
        connection=connection,
        fields=_fields(chunks, places),
        origins=origins if len(set(origins)) > 1 else None,
    )


def _pieces(
    chunks: Mapping[int, Chunk], records: IntArray, firsts: IntArray, lasts: IntArray
) -> tuple[list[bytes], IntArray]:
    """Bytes of records that lie one behind the other, heads and separators between; where each begins."""
    pieces: list[bytes] = []
    begins, size, head = [], 0, b""
    ends = records[START, lasts] + records[SIZE, lasts]
    runs = records[[CHUNK, ROW, START]][:, firsts].tolist()
    for chunk, row, start, end in zip(*runs, ends.tolist(), strict=True):
        own = chunks[chunk].head(row)
        if own and own != head:
            separator, head = own + b"\n", own
            separator = b"\n" + separator if pieces else separator
        else:
            separator = b"\n" if pieces else b""
        pieces += [separator, chunks[chunk].block.buffer[start:end]]
        begins.append(size + len(separator))
        size = begins[-1] + end - start
    return pieces, np.array(begins, np.int64)


def _origins(chunks: Mapping[int, Chunk], places: Sequence[tuple[int, int]]) -> list[Origin]:
    blocks = {number: chunk.block for number, chunk in chunks.items()}
    if len({(block.origin, block.origins is None) for block in blocks.values()}) == 1:
        first = next(iter(blocks.values()))
        if first.origins is None:
            return [first.origin] * len(places)
    return [blocks[chunk].origin_of(row) for chunk, row in places]


def _fields(chunks: Mapping[int, Chunk], places: Sequence[tuple[int, int]]) -> dict[str, Column]:
    names = {name for chunk, _ in places[:1] for name in chunks[chunk].fields}
    return {name: [chunks[chunk].fields[name][row] for chunk, row in places] for name in names}


def _listed(column: Column) -> Sequence[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else column


def packed(block: Block, time: IntArray) -> dict[str, Array]:
    """A block and its events' times as arrays; connections are not kept, since they end with a run."""
    origins = [block.origin_of(i) for i in range(len(block))] if block.origins else [block.origin]
    numbers = {origin: i for i, origin in enumerate(dict.fromkeys(origins))}
    more = {
        "origins": [[origin.source, origin.partition] for origin in numbers],
        "of": [numbers[origin] for origin in origins] if block.origins else None,
        "fields": block.fields,
    }
    columns = [time, block.ends - block.starts, block.starts, block.positions, block.numbers]
    return {
        "buffer": np.frombuffer(block.buffer, np.uint8),
        "records": np.stack(columns).astype(np.int64),
        "more": np.frombuffer(msgspec.msgpack.encode(more), np.uint8),
    }


def unpacked(arrays: Mapping[str, Array]) -> tuple[Block, IntArray]:
    """The reverse of `packed`."""
    time, size, starts, positions, numbers = arrays["records"].copy()
    more = msgspec.msgpack.decode(arrays["more"].tobytes())
    origins = [Origin(*each) for each in more["origins"]]
    block = Block(arrays["buffer"].tobytes(), starts, starts + size, positions, numbers, origins[0])
    block.fields = more["fields"]
    block.origins = None if more["of"] is None else [origins[i] for i in more["of"]]
    return block, time
