"""Events from the bodies of HTTP requests, by way of a log: answered once they are on the disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from streamrnn.net.protocol import ProducerHello, Refusal
from streamrnn.ports import EndOfStream
from streamrnn.sources.ingest import admitted, after
from streamrnn.sources.logged import LoggedSource

if TYPE_CHECKING:
    from streamrnn.builtins.web import HttpSourceConfig
    from streamrnn.events import Block, Frames
    from streamrnn.net.fronts import Front, Request
    from streamrnn.ports import Framer
    from streamrnn.sources.logged import Logged

_PRODUCER, _EPOCH, _SEQ = "streamrnn-producer", "streamrnn-epoch", "streamrnn-seq"
_STATUS = {"full": 503, "empty": 400, "hello": 400}
"""Of refusals; that of all others is 409."""


class HttpLogSource(LoggedSource):
    """The `http` source with `durability: log`; docs/http.md says what clients and it tell each other."""

    def __init__(
        self,
        config: HttpSourceConfig,
        front: Front[Any],
        new_framer: Callable[..., Framer],
        addresses: list[str],
        logged: Logged,
    ) -> None:
        super().__init__(logged)
        self._config, self._front, self._new_framer, self._log = config, front, new_framer, logged.log
        self.addresses = addresses
        """Where it listens, in the order of the options, with the ports it got."""
        self._has_ended = False

    def read(self, limit: int, wait_ms: int) -> Block | None:
        """See `Source.read`; None also where something happened that gave no record."""
        if self._has_ended:
            raise EndOfStream
        self._logged.recover()
        backlog = self._logged.backlog
        if backlog < self._config.max_backlog:
            with self._logged.telling():
                self._listen(0 if backlog else wait_ms / 1000)
        return self._logged.next_block(limit)

    def close(self) -> None:
        """See `Source.close`."""
        self._has_ended = True
        self._front.close()
        self._logged.close()

    def _listen(self, wait_s: float) -> None:
        """Take what has come, sync once, and answer."""
        answers = [(request.number, *self._append(request)) for request in self._front.requests(wait_s)]
        self._log.sync()
        for number, status, told in answers:
            self._front.respond(number, status, msgspec.json.encode(told))

    def _append(self, request: Request) -> tuple[int, dict[str, Any]]:
        """Append the records of a request; what it is to be told once they are on the disk."""
        try:
            return 202, self._accepted(request)
        except Refusal as refusal:
            told = {"code": refusal.code, "reason": str(refusal), **refusal.more}
            return _STATUS.get(refusal.code, 409), {"error": told}

    def _accepted(self, request: Request) -> dict[str, Any]:
        framer = self._new_framer()
        framer.feed(request.body)
        framer.finish()
        pieces: list[Frames] = []
        while frames := framer.take(1 << 16):
            pieces.append(frames)
        if not pieces:
            raise Refusal("empty", "expected an event in the body, found none")
        hello = _hello(request)
        if hello is None:
            offsets = [self._log.append(None, frames) for frames in pieces]
            return {"accepted": sum(map(len, pieces)), "offset": offsets[0]}
        return self._of_producer(hello, pieces)

    def _of_producer(self, hello: ProducerHello, pieces: list[Frames]) -> dict[str, Any]:
        """Append what the log does not have. Without an epoch, it is that of the newest instance."""
        known = self._log.producers.get(hello.producer)
        if hello.epoch is None:
            hello.epoch = max(1, known.epoch if known else 1)
        known, epoch, skips = admitted(self._log, hello, self._config.max_producers)
        if epoch > known.epoch:
            self._log.begin(hello.producer, epoch)
        conflicts = list[int]()
        for frames in pieces:
            again = min(skips, len(frames))
            if again:
                conflicts += self._log.check_again(hello.producer, known.next - skips, frames, again)
                skips -= again
            if again < len(frames):
                self._log.append(hello.producer, after(frames, again))
        told: dict[str, Any] = {"ack": known.next, "epoch": known.epoch}
        return {**told, "seq_conflict": conflicts} if conflicts else told


def _hello(request: Request) -> ProducerHello | None:
    """Whose records these are, as the headers say. Raises `Refusal`."""
    named = {"producer": _PRODUCER, "epoch": _EPOCH, "seq": _SEQ}
    given = {name: request.headers[header] for name, header in named.items() if header in request.headers}
    if not given:
        return None
    try:
        return msgspec.convert(given, ProducerHello, strict=False)
    except msgspec.ValidationError as problem:
        raise Refusal("hello", f"headers {_PRODUCER}, {_EPOCH} and {_SEQ}: {problem}") from None
