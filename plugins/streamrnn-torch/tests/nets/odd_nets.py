"""Modules that are called in many ways, some of which cannot be right."""

from collections import namedtuple

import torch
from torch import nn

Pair = namedtuple("Pair", "fast slow")


class Sequence(nn.Module):
    """Time first or second, state (h, c) of the layer inside."""

    def __init__(
        self, batch_first: bool = False, kind: str = "LSTM", head: int = 2, last: bool = False
    ) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(3, 5, num_layers=2, batch_first=batch_first)
        self.head, self.last = nn.Linear(5, head), last

    def forward(self, x, state):
        y, state = self.rnn(x, state)
        return self.head(y[:, -1] if self.last else y), state


class Named(nn.Module):
    """Several inputs by name, a named tuple of states, a tuple of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(4, 6), nn.Linear(8, 6)
        self.start = nn.Parameter(torch.arange(6.0))

    def initial_state(self, batch):
        return Pair(self.start.expand(batch, 6), torch.zeros(6, batch))

    def forward(self, x, state):
        fast = torch.tanh(self.mix(torch.cat([self.table(x["id"])[:, 0], x["num"]], 1)) + 0.5 * state.fast)
        slow = 0.9 * state.slow + 0.1 * fast.T
        return (fast, slow.T, (fast > 0).any(1)), Pair(fast, slow)


class Counter(nn.Module):
    """An integer state, changed in place."""

    def step(self, x, n):
        n += (x > 0).sum(1, keepdim=True)
        return n * x, n


class Gated(nn.Module):
    """A function of single numbers over an odd number of columns."""

    def initial_state(self, batch):
        return torch.zeros(batch, 3)

    def forward(self, x, state):
        state = torch.sigmoid(2 * x) * state + torch.nn.functional.gelu(x)
        return state, state


class Mixes(nn.Module):
    """Rows that depend on the other rows."""

    def initial_state(self, batch):
        return torch.zeros(batch, 3)

    def forward(self, x, state):
        state = 0.5 * state + x - x.mean(0)
        return state, state


class NoPair(Mixes):
    def forward(self, x, state):
        return x


class Nameless(Mixes):
    def forward(self, x, state):
        return (x, x), state


class Shrinks(Mixes):
    def forward(self, x, state):
        return x, state[:, :2]


class Sums(Mixes):
    def forward(self, x, state):
        return x.sum(0), state


class Renames(Mixes):
    def forward(self, x, state):
        return x, {"state": state}


class Raises(Mixes):
    def forward(self, x, state):
        return x @ state, state


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.GRU(3, 3), nn.GRU(3, 3)


class Unlike(Mixes):
    def initial_state(self, batch):
        return torch.randn(batch, 3)


class Square(Mixes):
    def initial_state(self, batch):
        return torch.zeros(batch, batch)


class Fails(Mixes):
    def __init__(self, size) -> None:
        raise ValueError(f"no size {size}")


def not_a_module():
    return 5
