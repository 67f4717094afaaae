"""Graphs that PyTorch's two exporters make."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from onnx_zoo import Specimen
from torch import Tensor, nn

F, H = 6, 8
OLD, NEW = "torch, old exporter", "torch, new exporter"


class Recurrent(nn.Module):
    """A recurrent net and a head; batch first unless told otherwise."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        options = {"batch_first": True, **options}
        self.rnn = getattr(nn, kind)(F, H, **options)
        width = (options.get("proj_size") or H) * (1 + bool(options.get("bidirectional")))
        self.head = nn.Linear(width, 3)


class Stateful(Recurrent):
    """LSTM: (x, h, c) -> (y, h, c); others: (x, h) -> (y, h)."""

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> tuple[Tensor, ...]:
        y, state = self.rnn(x, h if c is None else (h, c))
        return (self.head(y), *(state if isinstance(state, tuple) else (state,)))


class Forgetful(Recurrent):
    """x -> y, with the state left to begin at zero."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class LastOnly(Recurrent):
    """x -> y of the last step."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class ShapedByInput(Recurrent):
    """The state begins as zeros made from the input's size."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(1, x.shape[0], H)
        return self.head(self.rnn(x, (h, h))[0])


class FromInput(Recurrent):
    """The state begins as a function of the first step."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.head.weight.new_ones(F, H) * 0.1)
        return self.head(self.rnn(x, (x[:, 0] @ h)[None])[0])


class Learned(Recurrent):
    """The state begins as a trained parameter."""

    def __init__(self) -> None:
        super().__init__("GRU")
        self.first = nn.Parameter(torch.randn(1, 1, H))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x, self.first.expand(1, x.shape[0], H).contiguous())[0])


class Packed(Recurrent):
    """h and c side by side in one state [1, B, 2H]."""

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, c = state.split(H, dim=2)
        y, (h, c) = self.rnn(x, (h.contiguous(), c.contiguous()))
        return self.head(y), torch.cat([h, c], 2)


class StackedState(Recurrent):
    """h and c in one state [2, B, H]."""

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, (h, c) = self.rnn(x, (state[:1], state[1:]))
        return self.head(y), torch.cat([h, c], 0)


class CrossedState(StackedState):
    """A mistake of its author: c and h change places."""

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, (h, c) = self.rnn(x, (state[:1], state[1:]))
        return self.head(y), torch.cat([c, h], 0)


class Cell(nn.Module):
    """One step of a cell, without an axis of steps."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell, self.head, self.lstm = getattr(nn, kind)(F, H), nn.Linear(H, 3), kind == "LSTMCell"

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> tuple[Tensor, ...]:
        after = self.cell(x, (h, c)) if self.lstm else (self.cell(x, h),)
        return (self.head(after[0]), *after)


class Embedded(nn.Module):
    """Indices [B, T] through an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.rnn, self.head = nn.Embedding(5, F), nn.GRU(F, H, batch_first=True), nn.Linear(H, 5)

    def forward(self, ids: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.rnn(self.emb(ids), h)
        return torch.softmax(self.head(y), 2), h


class TwoInputs(nn.Module):
    """Two inputs of a step, two outputs, two recurrent nets."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.GRU(F, H, batch_first=True), nn.GRU(2, 3, batch_first=True)
        self.head = nn.Linear(H + 3, 1)

    def forward(self, x: Tensor, z: Tensor, ha: Tensor, hb: Tensor) -> tuple[Tensor, ...]:
        ya, na = self.a(x, ha)
        yb, nb = self.b(z, hb)
        return self.head(torch.cat([ya, yb], 2)), yb, na, nb


class Convolved(Recurrent):
    """A convolution over three steps whose past is not in the state."""

    def __init__(self) -> None:
        super().__init__("GRU")
        self.conv = nn.Conv1d(F, F, 3)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(nn.functional.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)
        y, h = self.rnn(x, h)
        return self.head(y), h


class Cached(Convolved):
    """The same with the past two steps in a state of its own."""

    def forward(self, x: Tensor, h: Tensor, cache: Tensor) -> tuple[Tensor, ...]:
        long = torch.cat([cache, x.transpose(1, 2)], 2)
        y, h = self.rnn(self.conv(long).transpose(1, 2), h)
        return self.head(y), h, long[:, :, -2:]


class Attentive(Recurrent):
    """Attends to all steps so far, which no state holds."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.rnn(x)[0]
        steps = torch.arange(x.shape[1])
        scores = (y @ y.transpose(1, 2)).masked_fill(steps[None, :] > steps[:, None], -1e9)
        return self.head(torch.softmax(scores, 2) @ y)


def export(model: nn.Module, args: tuple[Tensor, ...], names: list[str], outs: list[str], axes: Any) -> Any:
    """A model by the old exporter; `axes` {name: {axis: symbol}}, None for none."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), args, buffer, dynamo=False, input_names=names, output_names=outs, dynamic_axes=axes
        )
    return onnx.load_from_string(buffer.getvalue())


def export_new(
    model: nn.Module, args: tuple[Tensor, ...], names: list[str], outs: list[str], axes: Any
) -> Any:
    """The same by the new exporter; `axes` in the order of the arguments."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dims = [axis and {place: torch.export.Dim(name) for place, name in axis.items()} for axis in axes]
        program = torch.onnx.export(
            model.eval(), args, dynamo=True, input_names=names, output_names=outs, dynamic_shapes=tuple(dims),
            verbose=False,
        )  # fmt: skip
    return program.model_proto


def whole(
    model: nn.Module, states: list[Tensor], names: list[str], outs: list[str], first: bool = True
) -> Any:
    """The module itself over a whole sequence of one key."""

    def run(x: dict[str, Any]) -> dict[str, Any]:
        given = [torch.from_numpy(x[name]) for name in names]
        given = [one[None] if first else one[:, None] for one in given]
        with torch.no_grad():
            found = model(*given, *states)
        found = found if isinstance(found, tuple) else (found,)
        return {out: (y[0] if first else y[:, 0]).numpy() for out, y in zip(outs, found, strict=False)}

    return run


def stepped(model: nn.Module, states: list[Tensor], names: list[str], outs: list[str]) -> Any:
    """A module of one step, called step by step."""

    def run(x: dict[str, Any]) -> dict[str, Any]:
        now, answers = list(states), []
        for k in range(len(x[names[0]])):
            with torch.no_grad():
                found = model(*(torch.from_numpy(x[name][k : k + 1]) for name in names), *now)
            now, answers = list(found[len(outs) :]), [*answers, found[: len(outs)]]
        return {out: np.concatenate([y[i].numpy() for y in answers]) for i, out in enumerate(outs)}

    return run


BT = {0: "batch", 1: "time"}


def _stateful() -> Iterator[Specimen]:
    x, n = torch.randn(2, 3, F), 2
    for title, kind, options in (
        ("LSTM", "LSTM", {}),
        ("LSTM, 2 layers", "LSTM", {"num_layers": 2}),
        ("GRU, 3 layers", "GRU", {"num_layers": 3}),
        ("RNN, tanh", "RNN", {}),
        ("RNN, relu", "RNN", {"nonlinearity": "relu"}),
        ("LSTM, steps first", "LSTM", {"batch_first": False}),
        ("LSTM without bias", "LSTM", {"bias": False}),
    ):
        first, layers = options.get("batch_first", True), options.get("num_layers", 1)
        model = Stateful(kind, **options)
        letters = ["h", "c"] if kind == "LSTM" else ["h"]
        names, outs = [f"{a}0" for a in letters], [f"{a}n" for a in letters]
        given = x if first else x.transpose(0, 1)
        axes = {"x": BT if first else {0: "time", 1: "batch"}, "y": BT if first else {0: "time", 1: "batch"}}
        axes |= {name: {1: "batch"} for name in (*names, *outs)}
        states = [torch.zeros(layers, n, H) for _ in letters]
        made = export(model, (given, *states), ["x", *names], ["y", *outs], axes)
        one = [torch.zeros(layers, 1, H) for _ in letters]
        yield Specimen(
            f"{title}, state in and out", OLD, made, {"x": F}, whole(model, one, ["x"], ["y"], first)
        )


def _named() -> Iterator[Specimen]:
    x, h, one = torch.randn(2, 3, F), torch.zeros(1, 2, H), torch.zeros(1, 1, H)
    model = Stateful("LSTM")
    reference = whole(model, [one, one], ["x"], ["y"])
    for title, before, after, refused in (
        ("LSTM, only places pair its names", ("input_2", "input_3"), ("output_2", "output_3"), ""),
        ("LSTM, next_ names", ("h0", "c0"), ("next_h0", "next_c0"), ""),
        (
            "LSTM, Keras' names",
            ("state_h", "state_c"),
            ("StatefulPartitionedCall:1", "StatefulPartitionedCall:2"),
            "",
        ),
        (
            "LSTM whose names lie",
            ("h0", "c0"),
            ("cn", "hn"),
            "by its name 'h0' becomes 'hn', but by the graph",
        ),
    ):
        axes = {"x": BT} | {name: {1: "batch"} for name in (*before, *after)}
        made = export(model, (x, h, h), ["x", *before], ["y", *after], axes)
        yield Specimen(title, OLD, made, {"x": F}, reference, refused=refused)
    made = export(model, (x, h, h), ["x", "h_in", "c_in"], ["y", "h_out", "c_out"], None)
    yield Specimen(
        "LSTM of two rows and three steps", OLD, made, {"x": 3 * F},
        _chunked(model), options={"hidden_state": "expose"},
    )  # fmt: skip
    made = export(model, (x[:1, :1], one, one), ["x", "h_in", "c_in"], ["y", "h_out", "c_out"], None)
    yield Specimen("LSTM of one row and one step", OLD, made, {"x": F}, reference)


def _chunked(model: nn.Module) -> Any:
    """Events of three steps each."""

    def run(x: dict[str, Any]) -> dict[str, Any]:
        t, one = len(x["x"]), torch.zeros(1, 1, H)
        with torch.no_grad():
            y = model(torch.from_numpy(x["x"]).reshape(1, 3 * t, F), one, one)[0]
        return {"y": y.reshape(t, -1).numpy()}

    return run


def _hidden() -> Iterator[Specimen]:
    x = torch.randn(2, 3, F)
    for title, model, refused in (
        ("LSTM, state hidden", Forgetful("LSTM"), ""),
        ("GRU, 3 layers, state hidden", Forgetful("GRU", num_layers=3), ""),
        ("RNN, state hidden", Forgetful("RNN"), ""),
        ("LSTM, zeros of the input's size", ShapedByInput("LSTM"), ""),
        ("GRU, first state learned", Learned(), ""),
        ("GRU, first state from the input", FromInput("GRU"), "computes its initial state from x"),
        ("LSTM, both ways", Forgetful("LSTM", bidirectional=True), "runs bidirectional"),
        ("GRU and attention to the past", Attentive("GRU"), "step 2 of a sequence is not that step alone"),
    ):
        made = export(model, (x,), ["x"], ["y"], {"x": BT, "y": BT})
        yield Specimen(title, OLD, made, {"x": F}, whole(model, [], ["x"], ["y"]), refused=refused)
    model = LastOnly("LSTM")
    made = export(model, (x,), ["x"], ["y"], {"x": BT, "y": {0: "batch"}})
    yield Specimen("LSTM, state hidden, last step only", OLD, made, {"x": F}, _last(model))
    model = Forgetful("LSTM")
    reference = whole(model, [], ["x"], ["y"])
    made = export(model, (x[:1, :1],), ["x"], ["y"], None)
    yield Specimen("LSTM, state hidden, one row and one step", OLD, made, {"x": F}, reference)
    made = export(model, (x[:, :1],), ["x"], ["y"], {"x": {0: "n"}, "y": {0: "n"}})
    yield Specimen("LSTM, state hidden, one step", OLD, made, {"x": F}, reference)
    window = LastOnly("LSTM")
    made = export(window, (x,), ["x"], ["y"], {"x": {0: "n"}, "y": {0: "n"}})
    yield Specimen("LSTM over a window of three steps", OLD, made, {"x": 3 * F}, refused="is a whole window")
    yield Specimen(
        "the same, told to forget",
        OLD,
        made,
        {"x": 3 * F},
        _window(window),
        options={"hidden_state": "forget"},
    )


def _last(model: nn.Module) -> Any:
    def run(x: dict[str, Any]) -> dict[str, Any]:
        given = torch.from_numpy(x["x"])
        with torch.no_grad():
            return {"y": torch.cat([model(given[None, : k + 1]) for k in range(len(given))]).numpy()}

    return run


def _window(model: nn.Module) -> Any:
    def run(x: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            return {"y": model(torch.from_numpy(x["x"]).reshape(-1, 3, F)).numpy()}

    return run


def _formed() -> Iterator[Specimen]:
    x, h, one = torch.randn(2, 3, F), torch.zeros(1, 2, H), torch.zeros(1, 1, H)
    for kind in ("RNNCell", "GRUCell", "LSTMCell"):
        model, letters = Cell(kind), ["h", "c"] if kind == "LSTMCell" else ["h"]
        names, outs = [f"prev_{a}" for a in letters], [f"new_{a}" for a in letters]
        axes = {name: {0: "B"} for name in ("x", "y", *names, *outs)}
        made = export(model, (x[:, 0], *(h[0] for _ in letters)), ["x", *names], ["y", *outs], axes)
        reference = stepped(model, [one[0] for _ in letters], ["x"], ["y"])
        yield Specimen(f"nn.{kind}", OLD, made, {"x": F}, reference)
        if kind == "GRUCell":
            axes = {name: {0: "B"} for name in ("x", "y", "input_2", "output_2")}
            made = export(model, (x[:, 0], h[0]), ["x", "input_2"], ["y", "output_2"], axes)
            refused = "none of those of its shape (output_2) is its next value by name"
            yield Specimen("nn.GRUCell, only places pair its names", OLD, made, {"x": F}, refused=refused)
            yield Specimen(
                "the same, written", OLD, made, {"x": F}, reference,
                options={"state": [{"input": "input_2", "output": "output_2"}]},
            )  # fmt: skip
    for title, packed, state, refused in (
        ("LSTM, h and c side by side", Packed("LSTM"), torch.zeros(1, 2, 2 * H), ""),
        ("LSTM, h and c stacked", StackedState("LSTM"), torch.zeros(2, 2, H), ""),
        ("LSTM, h and c change places", CrossedState("LSTM"), torch.zeros(2, 2, H), "is not that step alone"),
    ):
        axes = {"x": BT, "y": BT, "state": {1: "batch"}, "stateN": {1: "batch"}}
        made = export(packed, (x, state), ["x", "state"], ["y", "stateN"], axes)
        yield Specimen(
            title, OLD, made, {"x": F}, whole(packed, [state[:, :1]], ["x"], ["y"]), refused=refused
        )


def _mixed() -> Iterator[Specimen]:
    x, h, one = torch.randn(2, 3, F), torch.zeros(1, 2, H), torch.zeros(1, 1, H)
    embedded, state = Embedded(), {"h": {1: "batch"}, "h_new": {1: "batch"}}
    made = export(
        embedded,
        (torch.zeros(2, 3, dtype=torch.int64), h),
        ["ids", "h"],
        ["p", "h_new"],
        {"ids": BT, **state},
    )
    yield Specimen("GRU over an embedding", OLD, made, {"ids": 1}, _of_ids(embedded, one), vocab=5)
    two, small = TwoInputs(), torch.zeros(1, 2, 3)
    axes = {"x": BT, "z": BT} | {n: {1: "batch"} for n in ("ha", "hb", "ha_out", "hb_out")}
    made = export(
        two, (x, torch.randn(2, 3, 2), h, small), ["x", "z", "ha", "hb"], ["y", "v", "ha_out", "hb_out"], axes
    )
    reference = whole(two, [one, torch.zeros(1, 1, 3)], ["x", "z"], ["y", "v"])
    yield Specimen("two GRUs, two inputs, two outputs", OLD, made, {"x": F, "z": 2}, reference)
    conv = Convolved()
    made = export(conv, (x, h), ["x", "h0"], ["y", "hn"], {"x": BT, "h0": {1: "batch"}, "hn": {1: "batch"}})
    yield Specimen(
        "convolution over steps, then GRU", OLD, made, {"x": F}, refused="is not that step alone: 'y' differs"
    )
    cached, cache = Cached(), torch.zeros(2, F, 2)
    axes = {"x": BT, "h0": {1: "batch"}, "hn": {1: "batch"}, "cache": {0: "batch"}, "cache_out": {0: "batch"}}
    made = export(cached, (x, h, cache), ["x", "h0", "cache"], ["y", "hn", "cache_out"], axes)
    reference = whole(cached, [one, cache[:1]], ["x"], ["y"])
    yield Specimen("the same with its past in a state", OLD, made, {"x": F}, reference)


def _of_ids(model: nn.Module, state: Tensor) -> Any:
    def run(x: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            return {"p": model(torch.from_numpy(x["ids"][:, 0])[None], state)[0][0].numpy()}

    return run


def _new() -> Iterator[Specimen]:
    x, h, one = torch.randn(2, 7, F), torch.zeros(1, 2, H), torch.zeros(1, 1, H)
    for kind in ("LSTM", "GRU"):
        model, letters = Stateful(kind), ["h", "c"] if kind == "LSTM" else ["h"]
        names, outs = [f"{a}0" for a in letters], [f"{a}n" for a in letters]
        args = (x, *(h.clone() for _ in letters))
        made = export_new(model, args, ["x", *names], ["y", *outs], (BT, *({1: "batch"} for _ in letters)))
        reference = whole(model, [one for _ in letters], ["x"], ["y"])
        yield Specimen(f"{kind}, state in and out", NEW, made, {"x": F}, reference)
        if kind == "LSTM":
            axes = (BT, {1: "batch"}, {1: "batch"})
            made = export_new(model, (x, h, h), ["x", *names], ["y", *outs], axes)
            refused = "by its name 'c0' becomes 'cn', but by the graph"
            yield Specimen("LSTM, one tensor given for h and c", NEW, made, {"x": F}, refused=refused)
    model = Forgetful("LSTM", num_layers=2)
    made = export_new(model, (x,), ["x"], ["y"], (BT,))
    yield Specimen("LSTM, 2 layers, state hidden", NEW, made, {"x": F}, whole(model, [], ["x"], ["y"]))
    made = export_new(model, (x,), ["x"], ["y"], ({0: "batch"},))
    refused = "the model wants 42 numbers, the features make 6"
    yield Specimen("LSTM, exported for seven steps", NEW, made, {"x": F}, refused=refused)
    cell, axes = Cell("LSTMCell"), ({0: "batch"},) * 3
    args = (x[:, 0], h[0], h[0].clone())
    made = export_new(cell, args, ["x", "hx", "cx"], ["y", "hy", "cy"], axes)
    yield Specimen("nn.LSTMCell", NEW, made, {"x": F}, stepped(cell, [one[0], one[0]], ["x"], ["y"]))


def specimens() -> Iterator[Specimen]:
    """All of them, from seeded weights."""
    torch.manual_seed(0)
    for makers in (_stateful, _named, _hidden, _formed, _mixed, _new):
        yield from makers()
