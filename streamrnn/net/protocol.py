"""The lines in which clients and this side tell each other where they are; docs/protocol.md is about them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

_NAME = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}$")]
_COUNT = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class Refusal(Exception):
    """A client is told so and its connection closed; `code` is for programs, the text for people."""

    def __init__(self, code: str, text: str, **more: Any) -> None:
        super().__init__(text)
        self.code, self.more = code, more


class ProducerHello(msgspec.Struct, forbid_unknown_fields=True):
    """Whose records follow; with `seq`, the number of the first one. No `epoch` asks for a new one."""

    producer: _NAME
    epoch: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)] | None = None
    seq: _COUNT | None = None


class ConsumerHello(msgspec.Struct, forbid_unknown_fields=True):
    """Which outputs are wanted, from where on."""

    start: _COUNT | Literal["earliest", "latest"] = msgspec.field(name="from")
    partition: str = "0"


class _Producer(msgspec.Struct, forbid_unknown_fields=True):
    hello: ProducerHello


class _Consumer(msgspec.Struct, forbid_unknown_fields=True):
    hello: ConsumerHello


_PRODUCER, _CONSUMER = msgspec.json.Decoder(_Producer), msgspec.json.Decoder(_Consumer)


def hello_of_producer(line: bytes) -> ProducerHello:
    """What the first line says. Raises `Refusal` if it is no such hello."""
    try:
        return _PRODUCER.decode(line).hello
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise _no_hello('{"hello": {"producer": "name"}}', problem) from None


def hello_of_consumer(line: bytes) -> ConsumerHello:
    """The same of a consumer."""
    try:
        return _CONSUMER.decode(line).hello
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise _no_hello('{"hello": {"from": 0}}', problem) from None


def message(**content: Any) -> bytes:
    """A line to a client."""
    return msgspec.json.encode(content) + b"\n"


def error(refusal: Refusal) -> bytes:
    """The last line to a client."""
    return message(error={"code": refusal.code, "reason": str(refusal), **refusal.more})


def _no_hello(example: str, problem: Exception) -> Refusal:
    return Refusal("hello", f"expected a first line such as {example}: {problem}")
