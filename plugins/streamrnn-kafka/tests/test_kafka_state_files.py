"""State of a group's partitions in files: what is written, what stays, and what is read again."""

import json
import random

import numpy as np
import pytest
from streamrnn_kafka.state_files import StateFiles, _digest
from toys import Toy

from streamrnn.core import Core
from streamrnn.errors import StateError
from streamrnn.events import Batch
from streamrnn.testing import quiet_context

KEYS, FEW, OFFSET = 5000, 2, 100
FIXED = {"pipeline": {"event.key": "k"}}


def files(folder, keep=2):
    return StateFiles(folder, quiet_context(base_dir=folder), FIXED, keep, "group g")


def serve(core, rng, n):
    keys = [f"k{rng.randrange(KEYS)}" for _ in range(n)]
    core.process(Batch(keys, {"x": np.array([[rng.random(), rng.random()] for _ in keys])}))


def grown(folder, commits, keep=2, first=KEYS * 3):
    """Commits of a core, the first of them of many keys: how large each was, its note, and the core."""
    rng, core, kept, told = random.Random(7), Core(Toy()), files(folder, keep), []
    for i in range(commits):
        serve(core, rng, FEW if i else first)
        before = kept.bytes
        note = kept.save("t-0", {}, OFFSET * (i + 1), core)
        kept.committed("t-0")
        told.append((kept.bytes - before, note))
    return told, core


def loaded(folder, offset, note):
    core = Core(Toy())
    files(folder).load("t-0", offset, note, core)
    return core


def names(folder):
    return sorted(path.name for path in (folder / "t-0").iterdir())


def test_a_commit_writes_what_changed_and_is_loaded_with_what_it_follows(tmp_path):
    told, core = grown(tmp_path, 6)
    sizes = [size for size, _ in told]
    assert max(sizes[1:]) < sizes[0] / 10
    again = loaded(tmp_path, 6 * OFFSET, told[-1][1])
    assert again.snapshot() == core.snapshot()


@pytest.mark.parametrize("keep", [1, 3])
def test_files_that_no_kept_commit_needs_are_removed(tmp_path, keep):
    rng, core, kept, notes, sizes = random.Random(7), Core(Toy()), files(tmp_path, keep), [], []
    for i in range(60):
        serve(core, rng, 20)
        notes.append(kept.save("t-0", {}, OFFSET * (i + 1), core))
        kept.committed("t-0")
        sizes.append(len(names(tmp_path)))
        for back in range(min(keep, i + 1)):
            loaded(tmp_path, OFFSET * (i + 1 - back), notes[i - back])
    assert core.snapshot() == loaded(tmp_path, 60 * OFFSET, notes[-1]).snapshot()
    assert max(sizes) < 30
    assert min(sizes[1:]) <= keep


def test_who_loads_goes_on_with_changes(tmp_path):
    told, _ = grown(tmp_path, 3)
    core, kept, rng = Core(Toy()), files(tmp_path), random.Random(9)
    kept.load("t-0", 3 * OFFSET, told[-1][1], core)
    serve(core, rng, FEW)
    before = kept.bytes
    note = kept.save("t-0", {}, 4 * OFFSET, core)
    assert kept.bytes - before < told[0][0] / 10
    kept.committed("t-0")
    assert loaded(tmp_path, 4 * OFFSET, note).snapshot() == core.snapshot()
    assert len(names(tmp_path)) == 4


def test_who_slept_removes_nothing_that_the_next_one_follows(tmp_path):
    """One writes and commits; before it has cleaned up, the next has gone on and made commits of its own."""
    told, core = grown(tmp_path, 3, keep=1)
    sleeping, rng = files(tmp_path, 1), random.Random(9)
    sleeping.load("t-0", 3 * OFFSET, told[-1][1], core := Core(Toy()))
    serve(core, rng, FEW)
    note = sleeping.save("t-0", {}, 4 * OFFSET, core)
    awake, other = files(tmp_path, 1), Core(Toy())
    awake.load("t-0", 4 * OFFSET, note, other)
    for i in (5, 6):
        serve(other, rng, FEW)
        note = awake.save("t-0", {}, i * OFFSET, other)
        awake.committed("t-0")
    sleeping.committed("t-0")
    assert loaded(tmp_path, 6 * OFFSET, note).snapshot() == other.snapshot()


def test_state_of_the_first_format_is_read(tmp_path):
    """A whole state in each file, and no word of another."""
    _, core = grown(tmp_path / "unused", 1)
    line = json.dumps({**FIXED, "group_format": 1, "topic": "t", "partition": 0, "offset": 7}).encode()
    data = line + b"\n" + core.snapshot()
    (tmp_path / "t-0").mkdir()
    (tmp_path / "t-0" / f"{7:020d}-{_digest(data)[:16]}.state").write_bytes(data)
    assert loaded(tmp_path, 7, f"streamrnn state 1 {_digest(data)}").snapshot() == core.snapshot()


@pytest.mark.parametrize("which", range(4))
def test_every_file_of_a_state_is_checked(tmp_path, which):
    told, _ = grown(tmp_path, 4, keep=1)
    path = tmp_path / "t-0" / names(tmp_path)[which]
    good = path.read_bytes()
    for at in (0, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(StateError, match="do not match their digest"):
            loaded(tmp_path, 4 * OFFSET, told[-1][1])
    path.unlink()
    with pytest.raises(StateError, match=f"state at offset {(which + 1) * OFFSET} in this file, and it is m"):
        loaded(tmp_path, 4 * OFFSET, told[-1][1])


@pytest.mark.parametrize("note", ["", "streamrnn state 3 " + "0" * 64, "by hand"])
def test_what_another_has_committed_is_refused(tmp_path, note):
    with pytest.raises(StateError, match="but not with state of this version"):
        loaded(tmp_path, 1, note)
