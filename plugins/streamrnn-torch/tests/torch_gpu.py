"""What tests need that run on a GPU."""

import pytest
import torch

MARKS = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


def needs_gpu(test):
    """A test, or a class of them, with these marks."""
    for mark in MARKS:
        test = mark(test)
    return test
