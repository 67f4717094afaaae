"""Jobs of the crash simulator with ends that are rotated, and faults that only they can have."""

from __future__ import annotations

import random
from contextlib import contextmanager

from crash_harness import BASE, FORMULA, Job, _deaf, events, swapped

from streamrnn.output_file import OutputFile
from streamrnn.sinks.numbered import NumberedFileSink

KEEP = 2
ROTATED = FORMULA.replace("path: out.txt}", f"path: out.txt, rotate: {{max_bytes: 400, keep: {KEEP}}}}}")


class RotatedJob(Job):
    """One whose outputs go into files of 400 bytes at most, of which the last ones are compared."""

    def __init__(self, text=ROTATED, files=None):
        super().__init__(text, files)

    def outcome(self, fs, state):
        full = [name for name in fs.names(BASE) if name.startswith("out.txt.")][-KEEP:]
        out = {name: fs.content(BASE / name) for name in [*full, "out.txt"]}
        return out, fs.content(BASE / "bad.txt"), state


def small_rotated():
    rng = random.Random(3)
    files = {"a.jsonl": events(rng, 14) + b"\nnonsense\n", "b.jsonl": events(rng, 8)}
    return RotatedJob(ROTATED.replace("400", "150"), files)


@contextmanager
def _closed_without_a_sync():
    with swapped(OutputFile, "close", lambda self: self.file.close()):
        yield


@contextmanager
def _not_taken_back():
    def as_it_is(self, place, number, beyond, set_aside):
        self._sink.resume(place)
        self._number, self._bytes = number, place["bytes"]

    with swapped(NumberedFileSink, "_take_back", as_it_is):
        yield


@contextmanager
def _later_files_left():
    take_back = NumberedFileSink._take_back

    def all_but_those(self, place, number, beyond, set_aside):
        take_back(self, place, number, [], set_aside)
        self._number = max([number, *self._full_numbers()])

    with swapped(NumberedFileSink, "_take_back", all_but_those):
        yield


@contextmanager
def _pruned_at_once():
    rename = NumberedFileSink._rename

    def and_prune(self):
        rename(self)
        for number in self._full_numbers()[: -self._config.keep]:
            self._fs.remove(self._full(number))

    with swapped(NumberedFileSink, "_rename", and_prune):
        yield


ROTATION_SABOTAGES = {
    "a full file renamed before it is on the disk": _closed_without_a_sync,
    "the next file begun before the rename is on the disk": _deaf(
        lambda kind, name, before: bool(before) and before[0][0] == "rename" and "out.txt." in before[0][1]
    ),
    "a file set aside after the commit is not taken back": _not_taken_back,
    "files begun after the commit are left": _later_files_left,
    "full files deleted when the next one is full": _pruned_at_once,
}
