"""A guard in front of a broker: speaks TLS and asks for passwords, which the broker of the tests does not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ssl
import struct
import threading
from contextlib import contextmanager

API_VERSIONS, HANDSHAKE, AUTHENTICATE = 18, 17, 36
UNSUPPORTED, FAILED = 33, 58
USERS = {"streams": "a secret, of course"}
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@contextmanager
def guarding(broker, tls=None, sasl=False):
    """The address of the guard, which shows `tls` to clients and, with `sasl`, wants to know who they are."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    guard = Guard(broker, sasl)
    server = asyncio.run_coroutine_threadsafe(guard.start(tls), loop).result()
    try:
        yield f"127.0.0.1:{guard.port}"
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(server):
    server.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def server_context(cert, key, client_ca=None):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(cert, key)
    if client_ca is not None:
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(client_ca)
    return made


class Guard:
    def __init__(self, broker, sasl):
        self.host, port = broker.split(":")
        self.broker_port, self.sasl = int(port), sasl

    async def start(self, tls):
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def serve(self, reader, writer):
        there, back = await asyncio.open_connection(self.host, self.broker_port)
        answers = asyncio.ensure_future(self.pass_answers(there, writer))
        try:
            await self.pass_requests(reader, writer, back)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            answers.cancel()
            back.close()
            writer.close()

    async def pass_requests(self, reader, writer, back):
        known, exchange = not self.sasl, None
        while True:
            frame = await _frame(reader)
            key, version, number = struct.unpack_from(">hhi", frame)
            body = frame[10 + max(0, struct.unpack_from(">h", frame, 8)[0]) :]
            if key == HANDSHAKE and self.sasl:
                name = body[2:].decode()
                names = b"".join(struct.pack(">h", len(m)) + m.encode() for m in MECHANISMS)
                code = 0 if name in MECHANISMS else UNSUPPORTED
                _answer(writer, number, struct.pack(">hi", code, len(MECHANISMS)) + names)
                exchange = plain() if name == "PLAIN" else scram(name.removeprefix("SCRAM-").replace("-", ""))
                next(exchange)
            elif key == AUTHENTICATE and exchange is not None:
                known, said = exchange.send(body[4:])
                code, why = (FAILED, b"no such password") if said is None else (0, b"")
                tail = struct.pack(">q", 0) if version > 0 else b""
                text = struct.pack(">hh", code, len(why)) + why
                _answer(writer, number, text + struct.pack(">i", len(said or b"")) + (said or b"") + tail)
            elif known or key == API_VERSIONS:
                back.write(struct.pack(">i", len(frame)) + frame)
                await back.drain()
            else:
                return

    async def pass_answers(self, there, writer):
        """The address that the broker tells is its own, where clients would go by without a guard."""
        told = self.host.encode() + struct.pack(">i", self.broker_port)
        try:
            while True:
                frame = await _frame(there)
                frame = frame.replace(told, self.host.encode() + struct.pack(">i", self.port))
                writer.write(struct.pack(">i", len(frame)) + frame)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()


async def _frame(reader):
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


def _answer(writer, number, body):
    writer.write(struct.pack(">ii", 4 + len(body), number) + body)


def plain():
    """RFC 4616: gets what the client says, gives whether it is known and what to say to it."""
    said = yield
    _, user, password = said.decode().split("\0")
    right = USERS.get(user) == password
    yield right, b"" if right else None


def scram(hash_name):
    """RFC 5802."""
    name = hash_name.lower()
    first = (yield).decode().removeprefix("n,,")
    asked = dict(part.split("=", 1) for part in first.split(","))
    user, nonce = asked["n"].replace("=2C", ",").replace("=3D", "="), asked["r"] + "guard"
    salt, rounds = b"salt of the test", 4096
    second = f"r={nonce},s={base64.b64encode(salt).decode()},i={rounds}"
    last = (yield False, second.encode()).decode()
    bare, proof = last.rsplit(",p=", 1)
    message = f"{first},{second},{bare}".encode()
    salted = hashlib.pbkdf2_hmac(name, USERS.get(user, "nobody's").encode(), salt, rounds)
    stored = hashlib.new(name, hmac.digest(salted, b"Client Key", name)).digest()
    signature = hmac.digest(stored, message, name)
    key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
    if bare != f"c=biws,r={nonce}" or hashlib.new(name, key).digest() != stored or user not in USERS:
        yield False, None
    answer = hmac.digest(hmac.digest(salted, b"Server Key", name), message, name)
    yield True, b"v=" + base64.b64encode(answer)
