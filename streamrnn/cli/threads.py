"""One thread for the BLAS libraries of this process."""

from __future__ import annotations

import os

_NAMES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def one_thread() -> None:
    """To be called before numpy is loaded, since the libraries read this as they load.

    One thread keeps the bits the same and is faster on small steps.
    """
    for name in _NAMES:
        os.environ.setdefault(name, "1")
