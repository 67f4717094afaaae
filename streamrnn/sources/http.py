"""Events from the bodies of HTTP requests, answered with their outputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from streamrnn.errors import OptionError, SourceError
from streamrnn.events import Block, Origin
from streamrnn.net.listening import listen
from streamrnn.net.tls import server_tls
from streamrnn.ports import EndOfStream
from streamrnn.sources.socket import block_of

if TYPE_CHECKING:
    from streamrnn.builtins.web import HttpSourceConfig
    from streamrnn.context import Context
    from streamrnn.events import Frames
    from streamrnn.net.fronts import Front, Request
    from streamrnn.ports import Framer
    from streamrnn.sources.http_log import HttpLogSource

_LINES = "application/x-ndjson"
_NOTHING = {"error": {"code": "empty", "reason": "expected an event in the body, found none"}}


class _Served:
    """A request, how many records it gave, and what they were answered so far."""

    __slots__ = ("answered", "answers", "framer", "given", "is_given", "request")

    def __init__(self, request: Request, framer: Framer) -> None:
        self.request, self.framer = request, framer
        framer.feed(request.body)
        framer.finish()
        self.given = self.answered = 0
        self.is_given = False
        """Whether all of its records were given."""
        self.answers: list[bytes] = []


class HttpSource:
    """The `http` source with `durability: memory`.

    A request is answered at once when all its records are, in their order: 200 with the outputs, or 202 where
    the sink has none for it. Numbers and positions count within one request.
    """

    partitioned = False

    def __init__(
        self, kind: str, front: Front[Any], new_framer: Callable[..., Framer], addresses: list[str]
    ) -> None:
        self._kind, self._front, self._new_framer = kind, front, new_framer
        self.addresses = addresses
        """Where it listens, in the order of the options, with the ports it got."""
        self._queue: deque[_Served] = deque()
        """Requests with records that were not given."""
        self._served: dict[int, _Served] = {}
        """All requests that are not answered, by number."""
        self._answers = self._stopped = self._has_ended = False

    def answering(self) -> Callable[[int, bytes, int], bool]:
        """See `Source`: from now on answers are waited for."""
        self._answers = True
        return self._answer

    def read(self, limit: int, wait_ms: int) -> Block | None:
        """See `Source.read`."""
        if self._has_ended:
            raise EndOfStream
        if not self._stopped:
            for request in self._front.requests(0 if self._queue else wait_ms / 1000):
                self._served[request.number] = served = _Served(request, self._new_framer())
                self._queue.append(served)
        block = self._next_block(limit)
        if block is None and self._stopped:
            self._has_ended = True
            raise EndOfStream
        return block

    def stop(self) -> None:
        """See `Source`."""
        self._stopped = True

    def position(self) -> Mapping[str, int]:
        """See `Source.position`: none, for what a request has brought cannot be read again."""
        return {}

    def close(self) -> None:
        """See `Source.close`. Clients have a few seconds to take the answers that wait for them."""
        self._has_ended = True
        self._front.close()

    def _next_block(self, limit: int) -> Block | None:
        """Records of one address, in the order in which their requests came."""
        parts: list[tuple[int, Frames]] = []
        address = self._queue[0].request.address if self._queue else ""
        while self._queue and limit and self._queue[0].request.address == address:
            served = self._queue[0]
            while limit and (frames := served.framer.take(limit)):
                served.given += len(frames)
                limit -= len(frames)
                parts.append((served.request.number, frames))
            if limit:
                self._queue.popleft()
                served.is_given = True
                self._finish(served)
        return block_of(parts, Origin(self._kind, address)) if parts else None

    def _answer(self, number: int, data: bytes, count: int) -> bool:
        served = self._served.get(number)
        if served is None:
            return False
        served.answers.append(bytes(data))
        served.answered += count
        return self._finish(served)

    def _finish(self, served: _Served) -> bool:
        """Answer a request, if all is known; False if its client has left."""
        if not served.is_given or (self._answers and served.answered < served.given):
            return True
        number = served.request.number
        del self._served[number]
        if not served.given:
            return self._front.respond(number, 400, msgspec.json.encode(_NOTHING))
        if self._answers:
            return self._front.respond(number, 200, b"".join(served.answers), _LINES)
        return self._front.respond(number, 202, msgspec.json.encode({"accepted": served.given}))


def build(
    config: HttpSourceConfig, context: Context, new_framer: Callable[..., Framer]
) -> HttpSource | HttpLogSource:
    """The `http` source, listening. Raises `SourceError` if it cannot, `OptionError` without the library it
    needs, for a codec without lines, or for files of `tls` that are not what they should be.
    """
    with _needed():
        from streamrnn.net.http import HttpFront

    return _build("http", HttpFront, config, context, new_framer)


def build_websocket(
    config: HttpSourceConfig, context: Context, new_framer: Callable[..., Framer]
) -> HttpSource | HttpLogSource:
    """The `websocket` source; raises what `build` does."""
    with _needed():
        from streamrnn.net.websocket import WebSocketFront

    return _build("websocket", WebSocketFront, config, context, new_framer)


def _build(
    kind: Literal["http", "websocket"],
    front: type[Front[Any]],
    config: HttpSourceConfig,
    context: Context,
    new_framer: Callable[..., Framer],
) -> HttpSource | HttpLogSource:
    tls, logged = server_tls(config.tls, context), None
    if config.durability == "log":
        from streamrnn.sources.http_log import HttpLogSource
        from streamrnn.sources.logged import Logged

        logged = Logged(kind, config, context, new_framer(), config.max_producers)
    try:
        listeners = listen(config.addresses(), context, tls)
    except OSError as error:
        if logged is not None:
            logged.close()
        raise SourceError(f"{error.filename}: cannot listen: {error.strerror}") from error
    opened, addresses = front(config, listeners, context), [each.address for each in listeners]
    if logged is not None:
        return HttpLogSource(config, opened, new_framer, addresses, logged)
    return HttpSource(kind, opened, new_framer, addresses)


@contextmanager
def _needed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("h11", "wsproto"):
            raise
        text = f"needs the package {error.name}: pip install streamrnn[http]"
        raise OptionError((("type",), text)) from error
