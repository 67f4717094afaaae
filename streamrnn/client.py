"""A producer and a consumer for the `socket` ends that lose nothing; docs/protocol.md is what they speak.

    with Producer("tcp://127.0.0.1:9000", "sensor-7") as producer:
        producer.send({"id": "a", "x": 1})

    for offset, output in Consumer("tcp://127.0.0.1:9001", start=0):
        print(offset, output)

To a server that speaks TLS, both connect with `tls=Tls(ca="authority.pem", cert="own.pem", key="own.key")`.

Standard library only, so that this file can be copied to where streamrnn is not installed.
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_AGAIN_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_HANDSHAKE_S = 30.0


@dataclass(frozen=True)
class Tls:
    """Files in PEM: `ca` with the authorities of a server's certificate, by default those of this machine.

    `cert` and `key` are what a client shows for itself. A server's certificate has to be for the host in the
    address.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """The files read. Raises `OSError`."""
        made = ssl.create_default_context(cafile=self.ca)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert is not None:
            made.load_cert_chain(self.cert, self.key)
        return made


class RefusedError(Exception):
    """The other side said why it goes on with us no more; `code` is for programs."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['reason']}")
        self.code: str = error["code"]


class _Link:
    """A connection of lines that is made again until `patience_s` have passed without one."""

    def __init__(self, address: str, patience_s: float, tls: Tls | None) -> None:
        if tls is not None and not address.startswith("tcp:"):
            raise ValueError(f"expected a tcp:// address for TLS, found {address!r}")
        self._address, self._patience_s = address, patience_s
        self._tls = tls.context() if tls else None
        self._socket: socket.socket | None = None
        self._rest = b""
        self.is_over = False

    def open(self, hello: Mapping[str, Any]) -> dict[str, Any]:
        """Say hello on a new connection; the welcome. Raises `RefusedError`, or `OSError` after a while.

        `ssl.SSLError` is raised at once: a certificate that one side refuses will be refused again.
        """
        self.close()
        until_s, again = time.monotonic() + self._patience_s, iter(_AGAIN_S)
        while True:
            try:
                self._socket = _connected(self._address, self._tls)
                if self.is_over:
                    raise ConnectionError("closed")
                self.send(json.dumps({"hello": hello}).encode() + b"\n")
                welcome: dict[str, Any] = json.loads(self.line())["welcome"]
                return welcome
            except OSError as error:
                self.close()
                is_final = isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)
                if is_final or self.is_over or time.monotonic() > until_s:
                    raise
                time.sleep(next(again, _AGAIN_S[-1]))

    def send(self, data: bytes) -> None:
        """All of it. Raises `OSError`."""
        if self._socket is None:
            raise ConnectionError("not connected")
        self._socket.sendall(data)

    def line(self) -> bytes:
        """The next line, waited for. Raises `OSError` if there will be none, `RefusedError` if it says so."""
        while b"\n" not in self._rest:
            if self._socket is None or not (data := self._socket.recv(1 << 16)):
                raise ConnectionError("the other side closed the connection")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        if line.startswith(b'{"error":'):
            self.close()
            raise RefusedError(json.loads(line)["error"])
        return line

    def has_line(self) -> bool:
        """Whether `line` would return at once. Raises `OSError`."""
        if self._socket is not None and b"\n" not in self._rest:
            self._socket.setblocking(False)
            try:
                data = self._socket.recv(1 << 16)
                if not data:
                    raise ConnectionError("the other side closed the connection")
                self._rest += data
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            finally:
                self._socket.setblocking(True)
        return b"\n" in self._rest

    def close(self) -> None:
        """Let go of the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._rest = None, b""

    def end(self) -> None:
        """For good, from any thread: what waits for the other side raises `OSError`."""
        self.is_over = True
        if (waiting := self._socket) is not None:
            with suppress(OSError):  # the other side may have closed it
                waiting.shutdown(socket.SHUT_RDWR)
        self.close()


class Producer:
    """Sends records until they are acknowledged, over as many connections as that takes.

    `next` is the number of the next record to send: a program that begins again and has its records again
    goes on with that one. A later Producer of that name ends this one: `RefusedError`, code `fenced`.
    """

    def __init__(
        self,
        address: str,
        name: str,
        max_waiting: int = 10_000,
        patience_s: float = 60,
        tls: Tls | None = None,
    ) -> None:
        self._link, self._hello = _Link(address, patience_s, tls), {"producer": name}
        self._max_waiting = max_waiting
        self._waiting: deque[bytes] = deque()
        self.acknowledged = self.next = 0
        self.acknowledged = self.next = self._begin()

    def send(self, record: Mapping[str, Any] | bytes) -> int:
        """Send a record, or a line of bytes; its number. Waits while `max_waiting` are not acknowledged."""
        line = record if isinstance(record, bytes) else json.dumps(record).encode()
        if not line.strip() or b"\n" in line:
            raise ValueError(f"expected a line that is not empty, found {line[:60]!r}")
        self._waiting.append(line + b"\n")
        self.next += 1
        self._try(lambda: self._link.send(self._waiting[-1]))
        self._try(self._hear_what_has_come)
        return self.next - 1

    def flush(self) -> None:
        """Return when everything that was sent is acknowledged."""
        while self._waiting:
            self._try(self._hear)

    def close(self) -> None:
        """Flush and let go."""
        self.flush()
        self._link.close()

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.flush()
        self._link.close()

    def _try(self, step: Callable[[], None]) -> None:
        """A step, or on a new connection, everything that is not acknowledged."""
        while True:
            try:
                return step()
            except OSError:
                self._forget(self._begin())
                step = self._send_again

    def _send_again(self) -> None:
        self._link.send(b"".join(self._waiting))

    def _begin(self) -> int:
        welcome = self._link.open(self._hello)
        self._hello["epoch"] = welcome["epoch"]
        return int(welcome["next"])

    def _hear_what_has_come(self) -> None:
        while self._waiting and (len(self._waiting) >= self._max_waiting or self._link.has_line()):
            self._hear()

    def _hear(self) -> None:
        told = json.loads(self._link.line())
        self._forget(told["ack"])
        if conflicts := told.get("seq_conflict"):
            reason = f"the log has other records of the numbers {conflicts}; these were refused"
            raise RefusedError({"code": "seq_conflict", "reason": reason})

    def _forget(self, acknowledged: int) -> None:
        if acknowledged < self.acknowledged:
            lost = f"{self.acknowledged} records were acknowledged, and {acknowledged} are there"
            raise RefusedError({"code": "lost", "reason": lost})
        for _ in range(acknowledged - self.acknowledged):
            self._waiting.popleft()
        self.acknowledged = acknowledged


class Consumer:
    """Gives pairs of an output's offset and its line, each once and in order, over any number of connections.

    `next` is the offset of the next one; keep it with what was done, and `start` there. It ends when it is
    closed, from whatever thread.
    """

    def __init__(
        self,
        address: str,
        start: int | str = "earliest",
        partition: str = "0",
        patience_s: float = 60,
        tls: Tls | None = None,
    ) -> None:
        self._link, self.next, self._partition = _Link(address, patience_s, tls), start, partition

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        try:
            yield from self._outputs()
        except OSError:
            if not self._link.is_over:
                raise

    def close(self) -> None:
        """Let go of the connection."""
        self._link.end()

    def _outputs(self) -> Iterator[tuple[int, bytes]]:
        left = 0
        self._begin()
        while True:
            try:
                if not left:
                    chunk = json.loads(self._link.line())
                    left, at = chunk["outputs"], chunk["from"]
                line = self._link.line()
            except OSError:
                left = 0
                self._begin()
                continue
            left, offset, at = left - 1, at, at + 1
            if offset >= self.next:
                self.next = offset + 1
                yield offset, line

    def _begin(self) -> None:
        self.next = int(self._link.open({"partition": self._partition, "from": self.next})["from"])


def _connected(address: str, tls: ssl.SSLContext | None) -> socket.socket:
    kind, _, where = address.partition(":")
    if kind == "unix":
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(where)
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = where.removeprefix("//").rpartition(":")
    name = host.strip("[]")
    connection = socket.create_connection((name, int(port)))
    if tls is None:
        return connection
    try:
        connection.settimeout(_HANDSHAKE_S)
        encrypted = tls.wrap_socket(connection, server_hostname=name)
    except BaseException:
        connection.close()
        raise
    encrypted.settimeout(None)
    return encrypted
