"""The state of one model handed to another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from streamrnn.core.segment import encode, parse
from streamrnn.core.shards import BESIDE
from streamrnn.errors import StateError
from streamrnn.events import Mark, Origin

if TYPE_CHECKING:
    from streamrnn.backend import Backend
    from streamrnn.core import Core
    from streamrnn.warmup import Warming

Change = Literal["refuse", "keep", "reset", "warmup"]
Way = Literal["same", "keep", "reset", "warmup"]
_ORIGIN = Origin("control", "model")


def model_of(backend: Backend) -> dict[str, Any]:
    """What a manifest says of the model."""
    state = backend.state
    return {
        "fingerprint": state.fingerprint,
        "meaning": state.meaning,
        "state": {tensor.name: [tensor.dtype, list(tensor.shape)] for tensor in state.tensors},
    }


def is_same(was: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether what two manifests say of their models means that a state is one of both."""
    return was["fingerprint"] == now["fingerprint"] or bool(
        now["meaning"] and was["meaning"] == now["meaning"]
    )


def way(was: Mapping[str, Any], now: Mapping[str, Any], asked: Change) -> Way:
    """How states of the model `was` are taken over by `now`. Raises `StateError` with what differs."""
    if is_same(was, now):
        return "same"
    if asked in ("reset", "warmup") or (asked == "keep" and was["state"] == now["state"]):
        return asked
    lines = [
        f"  model.{name}: was {_short(was[name])}, is {_short(now[name])}"
        for name in ("fingerprint", "state")
        if was[name] != now[name]
    ]
    why = "" if asked == "refuse" else f", which `{asked}` cannot take over"
    raise StateError("\n".join([f"the states are of another model{why}:", *lines]))


@dataclass
class Carrying:
    """States on their way to `backend`, whose rules and keys are the same.

    `reset` leaves only the latter; under `warmup`, states are made anew by `warming`.
    """

    backend: Backend
    way: Way
    warming: Warming | None = None

    def segments(
        self, segments: Iterable[tuple[str, Iterable[bytes]]]
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        """The same segments by partition, as if the backend's own model had kept them."""
        for partition, blobs in segments:
            is_beside = partition.startswith(BESIDE)
            yield partition, iter(blobs) if is_beside else self.carried(blobs)

    def settle(self, cores: Iterable[tuple[str, Core]]) -> None:
        """After the states are restored: under `reset` the next event of every key begins anew, and says so;
        under `warmup`, for which all was checked, every key gets its new state.
        """
        if self.way == "reset":
            for _, core in cores:
                core.mark(Mark("control", _ORIGIN))
        elif self.way == "warmup":
            assert self.warming is not None
            with closing(self.warming):
                self.warming.lay(cores)

    def carried(self, blobs: Iterable[bytes]) -> Iterator[bytes]:
        """The segments of one core, as if the backend's own model had kept them."""
        state = self.backend.state
        for blob in blobs:
            if self.way == "same":
                yield blob
                continue
            header, tensors = parse(blob)
            header |= {"fingerprint": state.fingerprint, "meaning": state.meaning}
            if self.way in ("reset", "warmup"):
                rows = len(tensors["rows"])
                tensors = {name: a for name, a in tensors.items() if not name.startswith("state.")}
                for tensor in state.tensors:
                    tensors[f"state.{tensor.name}"] = np.zeros((rows, *tensor.shape), tensor.dtype)
            yield b"".join(encode(header, {name: [array] for name, array in tensors.items()}))


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)
