"""Small models and random streams for the property tests."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from streamrnn.backend import Backend, FirstInput, StateSpec, StateTensor, TensorSpec
from streamrnn.context import Context
from streamrnn.events import Batch, Mark, Origin
from streamrnn.limits import Elapsed, Limits
from streamrnn.resets import rules as r
from streamrnn.resets.calendar import Calendar

ORIGIN = Origin("test", "test")


class Toy(Backend):
    """An elementwise recurrence over two tensors, one with its batch axis at 1, one taken from the input."""

    inputs = (TensorSpec("x", (2,), "float64"),)
    outputs = (TensorSpec("y", (), "float64"), TensorSpec("h", (3,), "float32"))
    state = StateSpec(
        (
            StateTensor("a", (2, 3), "float32", batch_axis=1, initial=0.25),
            StateTensor("b", (2,), "float64", initial=FirstInput("x")),
        ),
        fingerprint="toy",
    )

    def __init__(self, scans: bool = True) -> None:
        self.calls = 0
        if scans:
            self.scan = self._scan

    def step(self, state, x):
        self.calls += 1
        if (x["x"][:, 0] == 666).any():
            raise ValueError("no 666 please")
        a = (state["a"] * np.float32(0.5) + x["x"][None, :, :1].astype(np.float32)).astype(np.float32)
        b = state["b"] + 2.0 * x["x"]
        return {"a": a, "b": b}, {"y": b[:, 0] - b[:, 1], "h": np.ascontiguousarray(a[1])}

    def _scan(self, state, x, lens):
        self.calls += 1
        n, t = x["x"].shape[:2]
        y = {"y": np.zeros((n, t)), "h": np.zeros((n, t, 3), np.float32)}
        bad_at = np.full(n, -1)
        a, b = state["a"].copy(), state["b"].copy()
        for k in range(t):
            on = np.flatnonzero(lens > k)
            new, out = Toy.step(self, {"a": a[:, on], "b": b[on]}, {"x": x["x"][on, k]})
            a[:, on], b[on] = new["a"], new["b"]
            for name in y:
                y[name][on, k] = out[name]
            finite = np.isfinite(new["b"]).all(1) & np.isfinite(new["a"]).all((0, 2)) & np.isfinite(out["y"])
            bad_at[on[~finite & (bad_at[on] < 0)]] = k
        return {"a": a, "b": b}, y, bad_at


class Flicker(r.Rule):
    """A third party's rule with a column of its own: fires at every third flag, counted across resets."""

    recursive = True
    fields = ("flag",)
    columns = MappingProxyType({"flags": "int64"})

    def fires(self, now, previous, columns):
        flagged = np.array([value is not None for value in now.fields["flag"]], bool)
        columns["flags"][:] += flagged
        return flagged & (columns["flags"] % 3 == 0)


GIVEN = {"x": TensorSpec("x", (2,), "float64")}
FORMULAS = [
    {"state": {"H": 0}, "update": {"H": "2*H + x[0]"}, "output": {"y": "-H + 5"}},
    {"state": {"E": {"first": "x"}}, "update": {"E": "0.9*E + 0.1*x"}, "output": {"y": "dot(E, x)"}},
    {"state": {"s": [0, 0], "n": 0}, "update": {"s": "s + x", "n": "n + 1"}, "output": {"mean": "s / n"}},
    {"state": {"H": 0.5}, "update": {"H": "tanh(H + sum(x))"}, "output": {"y": "log(H)", "p": "prev(H)"}},
]


def formula_model(seed: int) -> Backend:
    """One of a few recurrences; some of them give what is not finite."""
    from streamrnn.backends.formula import build
    from streamrnn.builtins.formula import FormulaConfig

    return build(FormulaConfig.model_validate(FORMULAS[seed % len(FORMULAS)]), GIVEN, Context())


def numpy_model(seed: int) -> Backend:
    """A random cell of an odd size under a linear head, weights in the config."""
    from streamrnn.backends.layers import build
    from streamrnn.builtins.numpy_layers import NumpyConfig

    rng = np.random.default_rng(seed)
    cell, hidden = ("rnn", "gru", "lstm")[seed // 3 % 3], int(rng.choice([1, 3, 5, 8, 17]))
    rows = {"rnn": 1, "gru": 3, "lstm": 4}[cell] * hidden
    layer = {"type": cell, "hidden": hidden, "weights": {}}
    for name, shape in (("weight_ih_l0", (rows, 2)), ("weight_hh_l0", (rows, hidden))):
        layer["weights"][name] = rng.normal(size=shape).tolist()
    head = {"type": "linear", "out": 3, "weights": {"weight": rng.normal(size=(3, hidden)).tolist()}}
    config = {"layers": [layer, {**head, "activation": "softmax"}], "tile_rows": [1, 8, None][seed % 3]}
    backend = build(NumpyConfig.model_validate(config), GIVEN, Context())
    backend.inputs = (TensorSpec("x", (2,), "float32"),)
    backend.open()
    return backend


@dataclass
class Case:
    """A stream of random events with everything that may matter, and a configuration to serve it under."""

    rules: list
    elapsed: list
    limits: Limits
    events: list
    """Tuples of (key, time, x, word, flag) or a Mark."""
    source_of: list

    def batches(self, cuts: random.Random | None) -> list:
        """The events as batches cut at random (one batch between marks if `cuts` is None)."""
        out, held = [], []
        for event, source in zip(self.events, self.source_of, strict=True):
            mark = isinstance(event, Mark)
            if held and (mark or source != held[0][1] or (cuts and cuts.random() < 0.15)):
                out.append(batch(held))
                held = []
            if mark:
                out.append(event)
            else:
                held.append((event, source))
        return [*out, batch(held)] if held else out


def batch(held: list) -> Batch:
    events = [event for event, _ in held]
    return Batch(
        keys=[e[0] for e in events],
        inputs={"x": np.array([e[2] for e in events], np.float64).reshape(-1, 2)},
        time=np.array([e[1] for e in events], np.int64),
        fields={"word": [e[3] for e in events], "flag": [e[4] for e in events]},
        positions=np.arange(len(events), dtype=np.int64),
        source=held[0][1],
    )


WORDS = [None, "a", "b", 1, 1.0, "1", True, False, 0, 0.0, -0.0, [1, 2], [1.0, 2], {"k": 1}, "z" * 40, 2**70]


def make_rule(rng: random.Random, name: str) -> r.Rule:
    to, when = rng.choice(["initial", "initial", "zeros"]), rng.choice(["before", "after"])
    makers = [
        lambda: r.Gap(name, to, rng.randint(0, 12)),
        lambda: r.Age(name, to, rng.randint(0, 25)),
        lambda: r.Every(name, to, when, rng.randint(1, 5)),
        lambda: r.OnChange(name, to, when, rng.choice(["word", "flag"])),
        lambda: r.OnValue(name, to, when, "word", rng.sample(WORDS, 3), None, None),
        lambda: r.OnValue(name, to, when, "flag", None, 0.5, rng.choice([None, 3])),
        lambda: r.SourceEnd(name, to),
        lambda: Calendar(name, to, rng.choice(["hour", "day"]), rng.randint(0, 200), 0, "UTC", 1),
        lambda: Flicker(name, to),
    ]
    return rng.choice(makers)()


def make_case(seed: int) -> Case:
    rng = random.Random(seed)
    maybe = lambda value, p=0.5: value if rng.random() < p else None  # noqa: E731
    limits = Limits(
        max_keys=rng.choice([1, 2, 3, 5, 8, 1000]),
        refuse_new=random.Random(-seed).random() < 0.25,
        idle=maybe(rng.randint(3, 40)),
        max_ahead=maybe(rng.randint(5, 30), 0.3),
        max_state_norm=maybe(rng.choice([50.0, 500.0]), 0.2),
        max_value_bytes=30,
        remember_evicted=rng.choice([0, 1, 3, 1000]),
        collect_every=rng.choice([4, 16, 64, 65536]),
        guard=("keep_previous", "reset", "quarantine")[seed % 3],
    )
    elapsed = (
        [Elapsed("x", 1, 0.5, first=-1.0, across_reset=rng.random() < 0.5)] if rng.random() < 0.6 else []
    )
    keys = [f"k{i}" for i in range(rng.choice([1, 2, 4, 9, 30]))]
    dirt, clock, events, sources = rng.choice([0, 0, 0.02, 0.2]), 0, [], []
    source = "s0"
    for _ in range(rng.choice([3, 20, 60, 150])):
        if rng.random() < 0.03:
            kind = rng.choice(["source_end", "control", "other"])
            some = tuple(rng.sample(keys, min(2, len(keys))))
            glob = maybe(rng.choice(["k1*", "k?", "*", "none"]), 0.3)
            events.append(Mark(kind, ORIGIN, keys=None if glob else maybe(some, 0.3), glob=glob))
            source = rng.choice(["s0", "s1"])
        else:
            clock += rng.choice([0, 0, 1, 2, 9])
            late = rng.choice([0, 0, 0, 3, 20, -25])
            bad = rng.choice([666, np.inf, np.nan, 1e300]) if rng.random() < dirt else rng.randint(-3, 3)
            flag = rng.choice([None, None, 0, 1, 2, True, "on"])
            key = keys[0] if rng.random() < 0.4 else rng.choice(keys)
            events.append((key, clock - late, (bad, rng.random()), rng.choice(WORDS), flag))
        sources.append(source)
    rules = [make_rule(rng, f"rule{i}") for i in range(rng.choice([0, 1, 1, 2, 3, 5]))]
    return Case(rules, elapsed, limits, events, sources)


class MemoryCold:
    """A `ColdStore` of dicts, which lets nobody ask for what the contract does not promise."""

    def __init__(self):
        self.held, self.moved = {}, 0

    def __len__(self):
        return len(self.held)

    def put(self, keys):
        self.moved += len(keys)
        for key in keys:
            assert key.sequence > 0
            assert key.sequence not in self.held
            assert key.digest not in {other.digest for other in self.held.values()}
            self.held[key.sequence] = key

    def pop(self, digests):
        assert len(set(digests)) == len(digests)
        return self.pop_at([s for s, key in self.held.items() if key.digest in digests])

    def pop_at(self, sequences):
        return [self.held.pop(sequence).value for sequence in sequences]

    def ends(self, count, newest=False):
        return sorted(self.held, reverse=newest)[:count]

    def before(self, time):
        return [sequence for sequence, key in self.held.items() if key.time < time]

    def kept(self, sequences):
        return sequences[[sequence in self.held for sequence in sequences.tolist()]]

    def snapshot(self):
        return MemorySnapshot(dict(self.held))


class MemorySnapshot:
    def __init__(self, held):
        self.held = held

    def each(self, sequences, count):
        values = [
            self.held[s].value
            for s in (sorted(self.held) if sequences is None else sequences)
            if s in self.held
        ]
        for start in range(0, len(values) + 1, count):
            yield values[start : start + count]

    def close(self):
        self.held = {}
