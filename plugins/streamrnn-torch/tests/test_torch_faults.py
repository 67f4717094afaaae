"""Ways to compute the same layers whose bits depend on the batch, and that the kit and the probe see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from streamrnn_torch.runtime import THREAD_LIMIT
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from streamrnn.backend import Backend, StateSpec, StateTensor, TensorSpec
from streamrnn.conformance import BackendConformance
from streamrnn.core.probe import probe


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    THREAD_LIMIT.hold(1)
    yield
    THREAD_LIMIT.release()


class Lstm(Backend):
    """A fault-free LSTM: single steps and scans of equal lengths by the same calls, rows in fours."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.lstm, self.cell = nn.LSTM(8, 36).eval(), nn.LSTMCell(8, 36).eval()
        for name, weight in self.lstm.named_parameters():
            getattr(self.cell, name[:-3]).data = weight.data
        self.inputs, self.outputs = (TensorSpec("x", (8,)),), (TensorSpec("y", (36,)),)
        self.state = StateSpec((StateTensor("h", (36,)), StateTensor("c", (36,))), "faults")

    @torch.inference_mode()
    def step(self, state: Any, x: Any) -> Any:
        n = len(x["x"])
        h, c, rows = (self.fours(array) for array in (state["h"], state["c"], x["x"]))
        y, (h, c) = self.one(rows, h, c)
        return {"h": h[:n].numpy(), "c": c[:n].numpy()}, {"y": y[:n].numpy()}

    def one(self, x: Any, h: Any, c: Any) -> Any:
        y, (h, c) = self.lstm(x[None], (h[None], c[None]))
        return y[0], (h[0], c[0])

    @torch.inference_mode()
    def scan(self, state: Any, x: Any, lens: Any) -> Any:
        h, c, rows = (self.fours(array) for array in (state["h"], state["c"], x["x"]))
        padded = self.fours(np.asarray(lens, np.int64))
        y, h, c = self.many(rows, h, c, padded.clamp(min=1))
        y, n = y.numpy()[: len(lens)], len(lens)
        bad = ~np.isfinite(y).all(axis=2) & (np.arange(y.shape[1]) < np.asarray(lens)[:, None])
        bad_at = np.where(bad.any(axis=1), bad.argmax(axis=1), -1)
        return {"h": h[:n].numpy(), "c": c[:n].numpy()}, {"y": y}, bad_at

    def many(self, x: Any, h: Any, c: Any, lens: Any) -> Any:
        """Row by row, four copies of each: slow and right."""
        y = x.new_zeros((*x.shape[:2], 36))
        h, c = h.clone(), c.clone()
        for row, length in enumerate(lens.tolist()):
            start = (h[row].expand(1, 4, -1).contiguous(), c[row].expand(1, 4, -1).contiguous())
            told, (hn, cn) = self.lstm(x[row, :length, None].expand(-1, 4, -1).contiguous(), start)
            y[row, :length], h[row], c[row] = told[:, 0], hn[0, 0], cn[0, 0]
        return y, h, c

    @staticmethod
    def fours(array: Any) -> Any:
        values = torch.from_numpy(np.array(array))
        filled = values.new_zeros((-(-len(values) // 4) * 4, *values.shape[1:]))
        filled[: len(values)] = values
        return filled


class Packed(Lstm):
    """Scans as packed sequences."""

    def many(self, x: Any, h: Any, c: Any, lens: Any) -> Any:
        packed = pack_padded_sequence(x, lens, batch_first=True, enforce_sorted=False)
        y, (h, c) = self.lstm(packed, (h[None], c[None]))
        return pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0], h[0], c[0]


class CellBesideLayer(Lstm):
    """Single steps by LSTMCell, scans by LSTM."""

    def one(self, x: Any, h: Any, c: Any) -> Any:
        h, c = self.cell(x, (h, c))
        return h, (h, c)


class OneProduct(Lstm):
    """Single steps by one product over [x, h], scans with the inputs multiplied ahead."""

    def one(self, x: Any, h: Any, c: Any) -> Any:
        both = torch.cat([self.cell.weight_ih, self.cell.weight_hh], 1)
        return self.gates(torch.cat([x, h], 1) @ both.T + self.cell.bias_ih + self.cell.bias_hh, c)

    def many(self, x: Any, h: Any, c: Any, lens: Any) -> Any:
        ahead = x @ self.cell.weight_ih.T
        y, h, c = x.new_zeros((*x.shape[:2], 36)), h.clone(), c.clone()
        for k in range(int(lens.max())):
            bias = self.cell.bias_ih + self.cell.bias_hh
            told, (hn, cn) = self.gates(ahead[:, k] + h @ self.cell.weight_hh.T + bias, c)
            running = (lens > k)[:, None]
            y[:, k], h, c = told, torch.where(running, hn, h), torch.where(running, cn, c)
        return y, h, c

    @staticmethod
    def gates(gates: Any, c: Any) -> Any:
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


FAULTS = [Packed, CellBesideLayer, OneProduct]


def test_without_a_fault_all_is_well() -> None:
    verdict = probe(Lstm())
    assert (verdict.numerics, verdict.pad_rows, verdict.scan) == ("batch_invariant", 0, True)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_probe_takes_the_scan_away(fault: type[Lstm]) -> None:
    verdict = probe(fault())
    assert not verdict.scan
    assert any("does not equal step" in reason for reason in verdict.reasons)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_kit_fails(fault: type[Lstm]) -> None:
    with pytest.raises(AssertionError, match="does not equal step"):
        BackendConformance().test_scan_equals_steps(fault())
