"""Outputs to clients of a socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from streamrnn.errors import OptionError, SinkError
from streamrnn.log.rolling import Rolling
from streamrnn.net.listening import listen
from streamrnn.net.server import Room, Server
from streamrnn.net.tls import server_tls

if TYPE_CHECKING:
    from streamrnn.builtins.sockets import SocketSinkConfig
    from streamrnn.context import Context
    from streamrnn.events import Column, IntArray, OutBlock
    from streamrnn.net.listening import Listener
    from streamrnn.ports import Source
    from streamrnn.sinks.consumers import ConsumersSink

    Encode = Callable[[Mapping[str, Column], int], tuple[bytes, IntArray]]


class SenderSink:
    """The `socket` sink that answers: outputs and refusals in the order in which each client sent the events.

    What a client does not take at once is kept by the source, which then reads no more from it.
    """

    def __init__(self, context: Context, option: str = "to") -> None:
        self._log, self._option = context.log, option
        self._send: Callable[[int, bytes, int], bool] = lambda connection, data, answers: False
        self._encode: Encode = _as_json
        self.late = 0
        """Answers to clients that had left."""

    def attach(self, source: Source, encode: Encode) -> None:
        """Learn where to answer, and how records are written. Raises `OptionError` without connections."""
        answer, answering = getattr(source, "answer", None), getattr(source, "answering", None)
        if answering is None and answer is None:
            text = (
                "expected a source with connections to answer on, such as type: socket or http with "
                f"durability: memory, found {type(source).__name__}; use another sink"
            )
            more = ", or to: subscribers" if self._option == "to" else ""
            raise OptionError(((self._option,), text + more))
        if answering is not None:
            self._send = answering()
        elif answer is not None:
            self._send = lambda connection, data, answers: answer(connection, data)
        self._encode = encode if _can_refuse(encode) else _as_json

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`."""
        owners = block.block.connection
        if owners is None or not len(owners):
            return
        if not block.rejected and not block.silent and (owners == owners[0]).all():
            self._answer(int(owners[0]), block.buffer, len(block))
            return
        buffer, starts, ends, records = self._merged(block)
        owners = owners[records]
        order = np.lexsort((records, owners))
        owners, starts, ends = owners[order], starts[order], ends[order]
        # A run is a piece of the buffer that goes to one client as it is.
        breaks = np.flatnonzero((owners[1:] != owners[:-1]) | (starts[1:] != ends[:-1])) + 1
        edges = np.concatenate([[0], breaks, [len(owners)]])
        first, last = edges[:-1], edges[1:] - 1
        columns = (owners[first], starts[first], ends[last], edges[1:] - edges[:-1])
        runs = zip(*(column.tolist() for column in columns), strict=True)
        for owner, own in groupby(runs, itemgetter(0)):
            pieces = list(own)
            data = b"".join([buffer[start:end] for _, start, end, _ in pieces])
            self._answer(owner, data, sum(count for *_, count in pieces))

    def flush(self) -> None:
        """See `Sink.flush`. It waits for no client: the others would wait with it."""

    def close(self) -> None:
        """See `Sink.close`; the source sends what waits before it closes the connections."""
        if self.late:
            self._log.warning("%d answers were for clients that had left", self.late)
            self.late = 0

    def _merged(self, block: OutBlock) -> tuple[bytes, IntArray, IntArray, IntArray]:
        """Outputs and refusals in one buffer: where each begins and ends, and which record it answers.

        The answer to a message is empty, but counts.
        """
        told = [{"number": event.number, "reason": event.reason} for event in block.rejected]
        refused, refused_ends = self._encode({"refused": told}, len(told))
        length = len(block.buffer) + len(refused)
        nothing = np.full(len(block.silent), length, np.int64)
        ends = np.concatenate([block.ends, refused_ends + len(block.buffer), nothing])
        starts = np.concatenate([[0], ends[:-1]])
        records = np.array([*(event.record for event in block.rejected), *block.silent], np.int64)
        return block.buffer + refused, starts, ends, np.concatenate([block.records, records])

    def _answer(self, connection: int, data: bytes, answers: int) -> None:
        if not self._send(connection, data, answers):
            self.late += answers


class SubscribersSink:
    """The `socket` sink that broadcasts: every output to all who are connected when it is written.

    A subscriber for which too much waits is closed. Nothing that one sends is looked at; one that closes
    its sending side has left.
    """

    def __init__(self, config: SocketSinkConfig, context: Context, listeners: list[Listener]) -> None:
        self._most = config.max_pending_bytes
        self._server = Server(listeners, Room(config.max_connections, 2 * self._most), context)
        self.addresses = [listener.address for listener in listeners]
        """Where it listens, in the order of the options, with the ports it got."""
        self._closed = False

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`."""
        self.idle()
        if not block.buffer:
            return
        for connection in list(self._server.connections.values()):
            self._server.send(connection.number, block.buffer)
            if len(connection.pending) > self._most:
                self._server.give_up(connection, f"more than {self._most} bytes waited for it to read")
            if connection.is_deaf:
                self._server.drop(connection)

    def idle(self) -> None:
        """Take new subscribers, send what waits, let go of those that have left."""
        for connection in self._server.round(0):
            connection.discard()
            if connection.has_ended:
                self._server.drop(connection)

    def flush(self) -> None:
        """See `Sink.flush`. It waits for no subscriber: the stream would wait with it."""
        if not self._closed:
            self.idle()

    def close(self) -> None:
        """See `Sink.close`. Subscribers have a few seconds to take what waits for them."""
        self._closed = True
        self._server.close()


def _can_refuse(encode: Encode) -> bool:
    """Whether the pipeline's own codec can write a refusal; one with fixed columns cannot."""
    try:
        return len(encode({"refused": [{"number": 1, "reason": ""}]}, 1)[1]) == 1
    except Exception:
        return False


def _as_json(columns: Mapping[str, Column], n: int) -> tuple[bytes, IntArray]:
    lines = [msgspec.json.encode({"refused": each}) + b"\n" for each in columns["refused"]]
    return b"".join(lines), np.cumsum([len(line) for line in lines], dtype=np.int64)


def build(config: SocketSinkConfig, context: Context) -> SenderSink | SubscribersSink | ConsumersSink:
    """The sink; for subscribers and consumers it listens. Raises `SinkError` if it cannot, `OptionError` for
    files of `tls` that are not what they should be.
    """
    if config.to == "sender":
        return SenderSink(context)
    if config.to == "consumers":
        return _consumers(config, context)
    return SubscribersSink(config, context, _listeners(config, context))


def build_answers(config: object, context: Context) -> SenderSink:
    """The sink that answers on the connections of the source."""
    return SenderSink(context, "type")


def _consumers(config: SocketSinkConfig, context: Context) -> ConsumersSink:
    from streamrnn.sinks.consumers import ConsumersSink
    from streamrnn.sinks.log import LogSink

    assert config.log is not None
    rolling = Rolling(keep_bytes=config.keep_bytes, keep_s=config.keep_s)
    log = LogSink(context, config.log, rolling, config.emit == "committed")
    try:
        return ConsumersSink(config, context, _listeners(config, context), log)
    except BaseException:
        log.close()
        raise


def _listeners(config: SocketSinkConfig, context: Context) -> list[Listener]:
    try:
        return listen(config.addresses(), context, server_tls(config.tls, context))
    except OSError as error:
        raise SinkError(f"{error.filename}: cannot listen: {error.strerror}") from error
