"""The contracts of the two ends of a pipeline and of the codec between them and the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from streamrnn.events import Block, Columns, Frames, Mark, OutBlock

if TYPE_CHECKING:
    from streamrnn.events import Column, IntArray


class EndOfStream(Exception):  # control flow, not an error
    """A source has nothing more to give, now and for ever."""


Place = dict[str, Any]
"""Where to go on: what JSON can hold, for whoever gave it to read again."""


@runtime_checkable
class Resumable(Protocol):
    """A framer, source, encoder, sink or file of refused events that can go on where a run committed.

    A pipeline with `checkpoint` asks its parts for these methods; one that lacks them begins anew. An output
    may offer `placing()` besides: it notes its place and returns at once, with a function that makes what was
    written up to there durable and answers as `place` does, called on another thread while writing goes on.
    """

    def place(self) -> Place | None:
        """Where it goes on, asked for between two batches; of an output, all before it is on the disk.

        None if what it reads or writes can be had only once, as a pipe.
        """
        ...

    def resume(self, place: Place) -> None:
        """Go on from a place of an earlier run, before anything else is asked of it.

        Raises `SourceError` or `SinkError` if what lies before the place is not what it was.
        """
        ...


@runtime_checkable
class Committing(Protocol):
    """A source or sink that is told of commits."""

    def committed(self, place: Place, oldest: Place | None) -> None:
        """A commit with this place of it is on the disk; what lies before `oldest` is not asked for any more.

        Called after each commit and when a run goes on from one, but not while outputs are made again after a
        commit was found broken; on whichever thread wrote it, while `read` and `write` may go on.
        """
        ...


class Framer(Protocol):
    """Finds records in a stream of bytes; one per connection or file, since it remembers half a record."""

    def feed(self, data: bytes) -> None:
        """More bytes of the stream, in order."""
        ...

    def finish(self) -> None:
        """The stream has ended: what is left is a record too."""
        ...

    def take(self, limit: int) -> Frames:
        """Up to `limit` whole records; maybe fewer than are there, and none only if there is none.

        A record over the limit of bytes appears once, cut short, and is in `refused` with the reason.
        """
        ...

    @property
    def position(self) -> int:
        """Bytes of the stream before the next record that `take` will give."""
        ...


class Codec(Protocol):
    """Bytes to columns and back; built from the `decode` or the `encode` section.

    Two methods are optional: `array_decoder(fields, verbatim, arrays)` is asked for instead of `decoder`; its
    `arrays` map fields that only matter as numbers to their shapes: () for a number, (k,) for a list of k.
    It may give those as float64 arrays [n, *shape], where every record has such numbers, and need not
    tell 1 from 1.0. `heads(block)` is for one whose records cannot be read without what stands before them in
    the buffer, as a header: the first record of each stretch, from 0 on, and those bytes without a line end.
    Such records are then put together in another order, each stretch behind its head on a line of its own.
    """

    def framer(self, max_record_bytes: int, position: int = 0) -> Framer:
        """A new framer for a stream that begins at `position`."""
        ...

    def decoder(self, fields: Sequence[str], verbatim: Sequence[str]) -> Callable[[Block], Columns]:
        """A function from a block to the named fields (dotted paths).

        Fields in `verbatim` are only passed on: they may stay undecoded, in a form the same codec encodes.
        """
        ...

    def encoder(self) -> Callable[[Mapping[str, Column], int], tuple[bytes, IntArray]]:
        """A function from named columns and their length n to a buffer and the end of each record in it.

        An attribute `framing` of it, two numbers, says how many bytes before and behind each record only part
        it from others; a sink that keeps records apart leaves them out.
        One that writes something before its first record is also `Resumable`.
        """
        ...


class Source(Protocol):
    """Where records come from. `read` is called on one thread until it raises EndOfStream, then `close`.

    One that has connections may offer `answer(connection, data) -> bool`: bytes for the client that
    `Block.connection` numbers, false if it has left; or `answering()`, called once, which returns a function
    of the connection, the bytes, and how many records they answer. One that cannot read again what it was
    given may offer `stop()`, called once when a run is to end early: from then on nothing is taken from
    outside, and `read` gives what was taken before, whole records only, and then raises EndOfStream. With
    `partitioned = True`, keys, limits and largest times are a partition's own.
    One whose records have fields by any name beside what is in them may offer `supply(paths) -> paths`: it is
    told once, before the first read, what the pipeline looks at, and answers what of it stands in
    `Block.fields`. One that knows how much is there and was not read yet may offer
    `lag() -> Mapping[str, int]`, by partition, in `lag_unit`, "bytes" or "records"; asked on any thread.
    """

    def read(self, limit: int, wait_ms: int) -> Block | Mark | None:
        """At most `limit` records, as soon as there is one; None if there was none for `wait_ms`.

        Raises `EndOfStream` at the end, and again at every call after it; `SourceError` if it cannot go on.
        """
        ...

    def position(self) -> Mapping[str, int]:
        """Where the NEXT read begins, by partition."""
        ...

    def close(self) -> None:
        """Give everything back; twice is fine."""
        ...


class Sink(Protocol):
    """Where outputs go. Raises `SinkError` if it cannot go on.

    Two methods are optional: `attach(source, encode)` is called once, before the first event, for a sink that
    wants to know its pipeline's source and the encoder of the outputs; `idle()` whenever there was nothing to
    read, for one whose readers do not take everything at once.
    """

    def write(self, block: OutBlock) -> None:
        """Take the outputs of one batch, in order."""
        ...

    def flush(self) -> None:
        """Return when everything written is as durable as this sink can make it."""
        ...

    def close(self) -> None:
        """Flush and give everything back; twice is fine."""
        ...
