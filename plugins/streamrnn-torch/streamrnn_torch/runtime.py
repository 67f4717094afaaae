"""What every model of PyTorch shares: threads, device, type, and a slab on the device."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from streamrnn.backend import Backend
from streamrnn.core.slab import HostSlab
from streamrnn.errors import ModelError, OptionError
from streamrnn_torch.slab import DeviceSlab

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn_torch.options import TorchConfig, TorchModuleConfig

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def device_named(name: str) -> torch.device:
    """The device, if this machine has it. Raises `OptionError` with those it has."""
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    if (f"{name}:0" if name == "cuda" else name) not in found:
        text = f"expected a device that PyTorch finds here ({', '.join(found)}), found {name!r}"
        raise OptionError((("device",), text))
    return torch.device(name)


class ThreadLimit:
    """PyTorch's number of threads while anyone needs it. It belongs to the process, so all must agree."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._before = 0

    def hold(self, threads: int) -> None:
        """Set the number. Raises `ModelError` if another holder has set another one."""
        with self._lock:
            if self._holders == 0:
                self._before = torch.get_num_threads()
                torch.set_num_threads(threads)
            elif torch.get_num_threads() != threads:
                raise ModelError(
                    f"threads: expected {torch.get_num_threads()}, as another model in this process has set, "
                    f"found {threads}; give both the same number"
                )
            self._holders += 1

    def release(self) -> None:
        """Set the number back, if nobody else holds it."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                torch.set_num_threads(self._before)


THREAD_LIMIT = ThreadLimit()


class OnDevice(Backend):
    """A model on a device, in one type, with PyTorch's threads held while it is open."""

    ragged = True

    def _settle(self, config: TorchConfig | TorchModuleConfig, own_slab: bool | None) -> None:
        """Raises `OptionError` for a device that is not there."""
        self._device, self._dtype = device_named(config.device), DTYPES[config.dtype]
        self._threads, self._compiled, self._opened = config.threads, config.compile, False
        self.libraries = {"torch": torch.__version__}
        if config.device != "cpu" if own_slab is None else own_slab:
            self.make_slab = self._make_slab

    def open(self, device: str = "cpu", threads: int = 1) -> None:
        """Hold the configured number of threads; the device is the configured one too.

        Raises `ModelError` if another model has set another number, or the model cannot be compiled.
        """
        if self._opened:
            return
        THREAD_LIMIT.hold(self._threads)
        self._opened = True
        if self._device.type == "cuda":
            # 10 bits of mantissa in products, on by default in cuDNN's layers alone, are no float32.
            torch.backends.cudnn.allow_tf32 = False
        if self._compiled:
            self._try_compiled()

    def close(self) -> None:
        """Let go of the limit on threads."""
        if self._opened:
            THREAD_LIMIT.release()
            self._opened = False

    def _try_compiled(self) -> None:
        """A first step, in which torch.compile does its work."""
        slab = self.make_slab(1) if self.make_slab else HostSlab(self.state, 1)
        x = {spec.name: np.zeros((1, *spec.shape), spec.dtype) for spec in self.inputs}
        try:
            self.step(slab.take(np.arange(1), np.ones(1, np.int8), x), x)
        except Exception as error:
            self.close()
            why = (str(error).splitlines() or [""])[0]
            text = f"compile: torch.compile fails with {type(error).__name__}: {why}; leave it out"
            raise ModelError(text) from error

    def _make_slab(self, capacity: int) -> DeviceSlab:
        stored = {tensor.name: self._stored(tensor.dtype) for tensor in self.state.tensors}
        return DeviceSlab(self.state, capacity, self._device, stored)

    def _stored(self, dtype: str) -> torch.dtype:
        """The type in which a tensor declared as `dtype` is computed."""
        found: torch.dtype = self._dtype if dtype in ("float32", "float64") else getattr(torch, dtype)
        return found


def first_bad(finite: NDArray[Any], valid: NDArray[Any]) -> NDArray[np.int64]:
    """int64 [n]: the first step of each row with something not finite [t, n] where valid [n, t], else -1."""
    bad = ~finite.T & valid
    first: NDArray[np.int64] = np.where(bad.any(axis=1), bad.argmax(axis=1), -1)
    return first
