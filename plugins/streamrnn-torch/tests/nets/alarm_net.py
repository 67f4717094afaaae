"""A module of one's own with two state tensors and a dict of outputs."""

import torch
from torch import nn


class Alarm(nn.Module):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.cell, self.score = nn.GRUCell(3, hidden), nn.Linear(hidden, 1)

    def initial_state(self, batch: int) -> dict[str, torch.Tensor]:
        return {"h": torch.zeros(batch, self.cell.hidden_size), "mean": torch.full((batch, 3), 0.5)}

    def step(self, x: torch.Tensor, state: dict[str, torch.Tensor]):
        mean = 0.9 * state["mean"] + 0.1 * x
        h = self.cell(x - mean, state["h"])
        return {"score": torch.sigmoid(self.score(h)), "mean": mean}, {"h": h, "mean": mean}
