"""What a pipeline must come to, told one line of its log at a time by the definitions alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np

from streamrnn.build import core_limits, load_backend, order_policy, reset_rules
from streamrnn.definition import Definition
from streamrnn.events import Batch, Mark, Origin
from streamrnn.order.definition import Definition as Order
from streamrnn.order.definition import Refused
from streamrnn.order.policy import Policy
from streamrnn.refusals import code_of

MOST_BYTES, MOST_KEYS = 120, 5
PIPELINE = f"""
decode: {{type: jsonl}}
event: {{key: k, time: {{field: t, unit: s}}, inputs: {{x: [{{field: x}}]}}}}
ORDER
reset:
  - {{type: gap, gap_s: 9}}
  - {{type: every, events: 7}}
  - {{type: on_change, field: w}}
  - {{type: control, field: op, equals: reset}}
model: {{type: formula, state: {{s: 0.5}}, update: {{s: 0.3*s + x}}, output: {{y: "1.0 * s"}}}}
encode:
  type: jsonl
  include: [k, t]
  fields: {{y: {{type: output, output: y}}, n: {{type: meta, name: steps}}, c: {{type: meta, name: cause}}}}
sink: {{type: file, path: out.txt}}
dead_letter: {{path: bad.txt}}
limits:
  {{max_keys: {MOST_KEYS}, remember_evicted: 2, idle_s: 40, max_ahead_s: 60, max_state_norm: 30,
    max_line_bytes: {MOST_BYTES}}}
checkpoint: {{dir: job, every_s: 6, keep: 2}}
"""
ORDERS = {
    "as they come": "",
    "without duplicates": "order: {type: arrival, duplicates: {id: u, remember: 3}}",
    "by time": "order: {type: event_time, max_behind_s: 6, max_held_events: 5}",
    "by time or not at all": "order: {type: event_time, max_behind_s: 4, late: dead_letter, "
    "duplicates: {id: u, remember: 3}}",
}
_LATER = {"finite": "state_not_finite", "norm": "state_norm"}


@dataclass
class Model:
    """`outputs` and `refused` codes so far, in order; a code the definitions have no word for is None."""

    spec: object
    context: object
    outputs: list = field(default_factory=list)
    refused: list = field(default_factory=list)

    def __post_init__(self):
        policy = order_policy(self.spec)
        limits, rules = core_limits(self.spec), reset_rules(self.spec)
        self.names = ("new", "evicted", "expired", "unknown", "control", *(rule.name for rule in rules))
        self.ahead = None if policy is not None else limits.max_ahead
        limits = limits if policy is None else type(limits)(**{**vars(limits), "max_ahead": None})
        self.order = Order(policy or Policy())
        self.core = Definition(load_backend(self.spec, self.context), rules, (), limits)

    def read(self, line):
        """The next line of the log."""
        if (message := asked(line)) is not None:
            self.heed(message)
            return
        event = understood(line)
        if event is None:
            self.refused.append(None)
            return
        try:
            going_on = self.order.arrive(event["t"], len(line), event.get("u"), event)
        except Refused as refusal:
            self.refused.append(code_of(str(refusal)))
            return
        for each in going_on:
            self.serve(each)

    def heed(self, message):
        """A control message; those before it that wait go on first."""
        who = {name: message[name] for name in ("keys", "glob", "all") if message.get(name) is not None}
        if len(who) != 1 or who.get("all", True) is not True:
            self.refused.append("control")
            return
        for each in self.order.rest():
            self.serve(each)
        keys = who.get("keys")
        keys = (keys,) if isinstance(keys, str) else keys
        self.core.mark(Mark("control", Origin("", ""), keys=keys, glob=who.get("glob")))

    def serve(self, event):
        """An event whose turn has come."""
        (answer,) = self.core.process(
            Batch(
                [event["k"]],
                {"x": np.array([[event["x"]]], np.float64)},
                np.array([event["t"]], np.int64),
                {"w": [event.get("w")]},
            )
        )
        if answer.refused is not None:
            self.refused.append(_LATER.get(answer.refused, answer.refused))
            return
        causes = [name for bit, name in enumerate(self.names) if answer.cause >> bit & 1]
        y = float(answer.y["y"].reshape(-1)[0])
        self.outputs.append({"k": event["k"], "t": event["t"], "y": y, "n": answer.steps, "c": causes})

    def keys(self):
        """Key -> state, steps, largest time, last event."""
        return {
            key: (held.state["s"].tobytes(), held.steps, held.last_time, held.sequence)
            for key, held in self.core.keys.items()
        }


def asked(line):
    """The control message of a line, None if there is none."""
    try:
        message = json.loads(line) if len(line) <= MOST_BYTES else None
    except ValueError:
        return None
    return message if isinstance(message, dict) and message.get("op") == "reset" else None


def understood(line):
    """The event of a line, None if there is none that counts."""
    if len(line) > MOST_BYTES:
        return None
    try:
        event = json.loads(line, object_pairs_hook=_once)
    except ValueError:
        return None
    if not isinstance(event, dict) or type(event.get("k")) is not str or type(event.get("t")) is not int:
        return None
    is_number = type(event.get("x")) in (int, float) and math.isfinite(event["x"])
    return event if is_number else None


def _once(pairs):
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a field stands twice")
    return dict(pairs)
