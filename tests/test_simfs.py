"""The disk that loses power behaves as a disk may, and no better."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from simfs import Crash, SimFS

A, B, FOLDER = Path("/sim/a"), Path("/sim/b"), Path("/sim")


def outcomes(fs, path=A):
    return {fs.after_crash(random.Random(seed)).content(path) for seed in range(300)}


def test_what_was_synced_with_its_name_is_there_whatever_happens():
    fs = SimFS()
    file = fs.open_write(A, append=False)
    file.write(b"kept")
    fs.sync(file)
    fs.sync_folder(FOLDER)
    assert outcomes(fs) == {b"kept"}


def test_a_write_that_was_not_synced_may_be_lost_torn_or_zeros():
    fs = SimFS({A: b"old"})
    fs.open_write(A, append=True).write(b"new")
    found = outcomes(fs)
    assert {b"old", b"oldnew", b"oldn", b"old\0\0\0"} <= found
    assert all(content.startswith(b"old") for content in found)


def test_a_later_write_may_survive_an_earlier_one():
    fs = SimFS({A: b""})
    file = fs.open_write(A, append=True)
    file.write(b"one")
    file.write(b"two")
    assert b"\0\0\0two" in outcomes(fs)


def test_a_new_name_needs_its_folder_synced():
    fs = SimFS()
    file = fs.open_write(A, append=False)
    file.write(b"kept")
    fs.sync(file)
    assert outcomes(fs) == {None, b"kept"}


def test_a_rename_may_outlive_what_the_file_holds():
    fs = SimFS({B: b"old"})
    fs.open_write(A, append=False).write(b"new")
    fs.replace(A, B)
    assert {b"old", b"new", b""} <= outcomes(fs, B)
    fs.sync_folder(FOLDER)
    assert b"old" not in outcomes(fs, B)


def test_a_removed_name_may_come_back():
    fs = SimFS({A: b"old"})
    fs.remove(A)
    assert outcomes(fs) == {None, b"old"}


def test_a_cut_may_be_lost():
    fs = SimFS({A: b"long"})
    fs.truncate(fs.open_write(A, append=True), 1)
    assert outcomes(fs) == {b"l", b"long"}


def test_power_is_lost_at_the_operation_asked_for_and_stays_away():
    fs = SimFS({A: b""}, crash_at=3)
    file = fs.open_write(A, append=True)
    file.write(b"x")
    with pytest.raises(Crash):
        file.write(b"y")
    with pytest.raises(Crash):
        fs.open_read(A)
    assert [kind for kind, _ in fs.done] == ["open", "write", "write"]


def test_an_operation_fails_once_and_a_failed_sync_loses_what_it_was_for():
    fs = SimFS({A: b""}, fail_at=3, code=errno.EIO)
    file = fs.open_write(A, append=True)
    file.write(b"x")
    with pytest.raises(OSError, match="Input/output error"):
        fs.sync(file)
    fs.sync(file)
    assert outcomes(fs) == {b"x"}


def test_a_lock_is_held_until_it_is_closed():
    fs = SimFS()
    held = fs.lock(A)
    assert fs.lock(A) is None
    held.close()
    assert fs.lock(A) is not None
