"""PyTorch's settings of the process: threads, devices, types."""

from __future__ import annotations

import threading

import torch

from streamrnn.errors import ModelError, OptionError

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
