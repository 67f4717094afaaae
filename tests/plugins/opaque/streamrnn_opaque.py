"""A backend whose states nobody else can read: H' = H / 2 + sum(x), y = H'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from streamrnn.backend import Backend, StateSpec, StateTensor, TensorSpec
from streamrnn.hookspecs import Component, hookimpl
from streamrnn.limits import INITIAL

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]
FIRST = 8.0


class OpaqueConfig(BaseModel):
    """No options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Sealed:
    """An array that numpy may not touch, as if it lay on a device. What it holds is `inside`."""

    __array_ufunc__ = None

    def __init__(self, inside: NDArray[np.float64]) -> None:
        self.inside = inside
        self.shape = inside.shape

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("numpy was let at a sealed array")

    def __getitem__(self, _: Any) -> Any:
        raise TypeError("a sealed array was indexed by somebody else")

    def __iter__(self) -> Any:
        raise TypeError("a sealed array was iterated over")


class Vault:
    """A `Slab` of sealed arrays."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._h = np.zeros(capacity)

    def take(self, rows: Rows, fresh: NDArray[np.int8], x: Mapping[str, Any]) -> dict[str, Sealed]:
        """See `Slab.take`."""
        return {"H": Sealed(np.where(fresh == 0, self._h[rows], FIRST * (fresh == INITIAL)))}

    def narrow(self, state: Mapping[str, Sealed], start: int, stop: int) -> dict[str, Sealed]:
        """See `Slab.narrow`."""
        return {"H": Sealed(state["H"].inside[start:stop])}

    def put(self, rows: Rows, state: Mapping[str, Sealed], mask: Flags) -> None:
        """See `Slab.put`."""
        self._h[rows[mask]] = state["H"].inside[mask]

    def init(self, rows: Rows, fresh: NDArray[np.int8]) -> None:
        """See `Slab.init`."""
        self._h[rows] = FIRST * (fresh == INITIAL)

    def healthy(self, state: Mapping[str, Sealed], max_norm: float | None) -> Flags:
        """See `Slab.healthy`."""
        return np.abs(state["H"].inside) <= (np.finfo(np.float64).max if max_norm is None else max_norm)

    def read(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """See `Slab.read`."""
        return {"H": self._h[rows]}

    def write(self, rows: Rows, tensors: Mapping[str, NDArray[Any]]) -> None:
        """See `Slab.write`."""
        self._h[rows] = tensors["H"]

    def grow(self, capacity: int) -> None:
        """See `Slab.grow`."""
        self._h = np.concatenate([self._h, np.zeros(capacity - self.capacity)])
        self.capacity = capacity


class Opaque(Backend):
    """The `opaque` backend."""

    outputs = (TensorSpec("y", (), "float64"),)
    state = StateSpec((StateTensor("H", (), "float64", initial=FIRST),), fingerprint="opaque")
    make_slab = Vault

    def __init__(self, given: Mapping[str, TensorSpec]) -> None:
        self.inputs = tuple(TensorSpec(name, spec.shape, "float64") for name, spec in given.items())

    def step(self, state: dict[str, Any], x: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Backend.step`."""
        h = state["H"].inside / 2
        for array in x.values():
            for column in np.moveaxis(array, 1, 0):
                h = h + column
        return {"H": Sealed(h)}, {"y": h}


def build(config: OpaqueConfig, given: Mapping[str, TensorSpec], context: Any) -> Opaque:
    """Build from the YAML section."""
    return Opaque(given)


@hookimpl
def streamrnn_components() -> list[Component]:
    """What this plugin provides."""
    return [Component("backend", "opaque", OpaqueConfig, build, "a leaky sum with states of its own")]
