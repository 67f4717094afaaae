"""Networks as they are trained: `forward` takes whole sequences, batch first; `step` is for serving."""

import torch
from torch import nn


class Trained(nn.Module):
    """LSTM or GRU under a linear head."""

    def __init__(self, kind: str = "LSTM", hidden: int = 6, layers: int = 1) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(5, hidden, num_layers=layers, batch_first=True)
        self.head = nn.Linear(hidden, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0])

    def step(self, x, state):
        y, state = self.rnn(x[:, None], state)
        return self.head(y[:, 0]), state


class Custom(nn.Module):
    """Two cells, a running mean and a learned initial state."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = nn.GRUCell(5, 4), nn.LSTMCell(9, 4)
        self.start = nn.Parameter(torch.linspace(-1, 1, 4))
        self.head = nn.Linear(4, 3)

    def initial_state(self, batch):
        zeros = torch.zeros(batch, 4)
        return {"slow": self.start.expand(batch, 4), "h": zeros, "c": zeros, "mean": torch.zeros(batch, 5)}

    def step(self, x, state):
        mean = 0.9 * state["mean"] + 0.1 * x
        slow = self.slow(x - mean, state["slow"])
        h, c = self.fast(torch.cat([x, slow], 1), (state["h"], state["c"]))
        return torch.tanh(self.head(h)), {"slow": slow, "h": h, "c": c, "mean": mean}

    def forward(self, x):
        state, answers = self.initial_state(len(x)), []
        for k in range(x.shape[1]):
            y, state = self.step(x[:, k], state)
            answers.append(y)
        return torch.stack(answers, 1)
