"""A log that somebody writes and rotates while a simulated pipeline follows it, and while it does not."""

from __future__ import annotations

import gzip
import random
from contextlib import contextmanager

from crash_harness import BASE, FORMULA, Job, events, swapped
from simfs import Inode

from streamrnn.sources import file, follow, found_again
from streamrnn.sources.identity import identity

LOG = str(BASE / "log")
FOLLOWED = FORMULA.replace('path: ["*.jsonl"]}', "path: log, follow: true, rotate_wait_s: 0}")


class Script:
    """What is done to a log, step by step; a quiet step waits until all was read, unless nothing runs.

    Only a cut is quiet: what has been cut before a byte of it was read cannot be told from what never was.
    """

    def __init__(self, seed, n_events=70):
        rng = random.Random(seed)
        self.steps, lines = [], events(rng, n_events).splitlines(keepends=True)
        while lines:
            chunk = b"".join(lines.pop(0) for _ in range(min(len(lines), rng.randrange(1, 9))))
            kind = rng.choice(["rename", "rename", "copytruncate", "gzip", "none", "none"])
            if kind in ("rename", "none") and rng.random() < 0.5:  # also within a line
                cut = rng.randrange(len(chunk))
                self.steps += [
                    ("append", chunk[:cut]),
                    *[(kind, None)] * (kind == "none"),
                    ("append", chunk[cut:]),
                ]
            else:
                self.steps.append(("append", chunk))
            self.steps.append((kind, None))
        self.done = 0

    @property
    def is_over(self):
        return self.done == len(self.steps)

    @property
    def is_next_quiet(self):
        return self.steps[self.done][0] == "copytruncate"

    def step(self, fs):
        kind, data = self.steps[self.done]
        self.done += 1
        getattr(self, f"_{kind}")(fs, data)

    def _put(self, fs, path, data, inode=None):
        """On the disk at once: what others lose when power is lost is not the pipeline's to mend."""
        inode = inode or Inode()
        inode.durable[:] = inode.cached[:] = data
        inode.modified_ns = self.done
        fs.names_durable[path] = fs.cached[path] = inode

    def _append(self, fs, data):
        inode = fs.cached.get(LOG)
        self._put(fs, LOG, bytes(inode.cached) + data if inode else data, inode)

    def _none(self, fs, data):
        pass

    def _shift(self, fs):
        full = sorted((p for p in fs.cached if p.startswith(LOG + ".")), key=lambda p: -int(p.split(".")[1]))
        for path in full:
            number, *ending = path.removeprefix(LOG + ".").split(".")
            self._move(fs, path, ".".join([LOG, str(int(number) + 1), *ending]))

    def _move(self, fs, path, target):
        for names in (fs.cached, fs.names_durable):
            names[target] = names.pop(path)

    def _rename(self, fs, data):
        self._shift(fs)
        self._move(fs, LOG, LOG + ".1")
        self._put(fs, LOG, b"")

    def _copytruncate(self, fs, data):
        self._shift(fs)
        inode = fs.cached[LOG]
        self._put(fs, LOG + ".1", bytes(inode.cached))
        self._put(fs, LOG, b"", inode)

    def _gzip(self, fs, data):
        """The newest of the rotated files; its time of change stays, as gzip lets it."""
        path = LOG + ".1"
        if path in fs.cached:
            inode = fs.cached[path]
            packed = Inode(modified_ns=inode.modified_ns)
            packed.durable[:] = packed.cached[:] = gzip.compress(bytes(inode.cached), mtime=0)
            for names in (fs.cached, fs.names_durable):
                del names[path]
                names[path + ".gz"] = packed


class FollowedJob(Job):
    """A job over a log; `scripts` are as many as there are ways to rotate it in a test."""

    def __init__(self, text=FOLLOWED, seed=1, n_events=70):
        super().__init__(text, {"log": b""})
        self.seed, self.n_events = seed, n_events

    def outcome(self, fs, state):
        out = {name: fs.content(BASE / name) for name in fs.names(BASE) if name.startswith("out.txt")}
        return out, fs.content(BASE / "bad.txt"), state

    def begin(self, seed):
        self.script, self.is_last = Script(self.seed, self.n_events), seed is None
        self.idle = 0

    def turns(self, rng):
        return rng.randrange(40)

    def turn(self, fs, rng, pipeline):
        caught_up = is_caught_up(fs, pipeline.parts.source)
        if self.script.is_over:
            return self.is_last and caught_up
        if caught_up if self.script.is_next_quiet else rng.random() < 0.5:
            self.script.step(fs)
        return False

    def between(self, fs, rng, is_last):
        self.is_last = is_last
        if not any(name.startswith("commit-") for name in fs.names(BASE / "job")):
            return  # without a commit there is nothing to go on from: what is rotated then is not part of it
        for _ in range(rng.randrange(9)):
            if not self.script.is_over:
                self.script.step(fs)


def small_followed():
    """A few events, and outputs that are rotated too."""
    rotate = "path: out.txt, rotate: {max_bytes: 150, keep: 90}}"
    return FollowedJob(FOLLOWED.replace("path: out.txt}", rotate), 2, 14)


def is_caught_up(fs, source):
    """Whether all whole lines were read, and files that were rotated left."""
    if list(source._files) != [(1, fs.cached[LOG].number)]:
        return False
    (open_file,) = source._files.values()
    content, read = bytes(fs.cached[LOG].cached), open_file.tail.position
    was = open_file.tail.identity()
    is_noticed = (
        identity(content[:read][:4096], content[:read][len(content[:read]) - was["last_bytes"] :], read)
        == was
    )
    return is_noticed and read >= content.rfind(b"\n") + 1 and open_file is not source._current


@contextmanager
def _known_by_inode_alone():
    with swapped(found_again.Candidate, "is_like", lambda self, fs, wanted: True):
        yield


@contextmanager
def _rotated_not_looked_for():
    look = file.candidates
    followed = lambda *asked: [each for each in look(*asked) if each.is_followed]  # noqa: E731
    with swapped(file, "candidates", followed):
        yield


@contextmanager
def _newest_first():
    find = follow.find_again

    def reversed_(fs, place, candidates):
        found = find(fs, place, candidates)
        found.rotated.reverse()
        return found

    with swapped(follow, "find_again", reversed_):
        yield


@contextmanager
def _read_ones_forgotten():
    with swapped(follow.FollowSource, "_done_with", lambda *arguments: None):
        yield


@contextmanager
def _read_not_served():
    left = follow._left

    def ahead(opened):
        place = left(opened)
        return {**place, "framer": {**place["framer"], "position": getattr(opened.tail, "_offset", 0)}}

    with swapped(follow, "_left", ahead):
        yield


FOLLOW_SABOTAGES = {
    "a file known by its inode alone": _known_by_inode_alone,
    "files rotated while nothing ran are not looked for": _rotated_not_looked_for,
    "of those the newest is read first": _newest_first,
    "files that were read are forgotten": _read_ones_forgotten,
    "the place is where reading stood, not serving": _read_not_served,
}
