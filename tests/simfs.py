"""A file system in memory that loses power: what was not synced may be gone, torn or zeros.

Every operation that changes something has a number. Power is lost at one of them (`crash_at`; with
`crash_kind`, at the first of that kind from there on), or one of them fails (`fail_at`); `after_crash` is the
disk that is found then. Files that are not on it are read from the machine, so that models need no copy.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import random
import stat
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

from streamrnn.context import FileSystem


class Crash(BaseException):
    """Power was lost; nothing handles it."""


@dataclass(eq=False)
class Inode:
    """What a file holds on the disk, what it holds for those who read it, and the changes between."""

    durable: bytearray = field(default_factory=bytearray)
    cached: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes as (position, bytes), cuts as (size, None)."""
    number: int = field(default_factory=count(1).__next__)
    modified_ns: int = 0
    """When somebody else changed it; the pipeline's own changes do not count."""

    def change(self, at, data):
        apply(self.cached, at, data)
        self.pending.append((at, data))

    def holding(self, data):
        """The same file with other bytes, all of them on the disk."""
        return replace(self, durable=bytearray(data), cached=bytearray(data), pending=[])

    def settled(self, rng, luck):
        """What is found after power was lost; `luck` is how likely an unsynced change is to be there."""
        found = bytearray(self.durable)
        for at, data in self.pending:
            if rng.random() < luck:
                apply(found, at, data)
            elif data and rng.random() < 0.3:
                apply(found, at, data[: rng.randrange(len(data))])
            elif data and rng.random() < 0.3:
                apply(found, at, bytes(len(data)))
        return found


def apply(content, at, data):
    if data is None:
        del content[at:]
        return
    content.extend(bytes(max(0, at - len(content))))
    content[at : at + len(data)] = data


class SimFile:
    """An open file."""

    def __init__(self, fs, path, inode, append=False):
        self.fs, self.path, self.inode, self.append = fs, path, inode, append
        self.at, self.closed = 0, False

    def read(self, size=-1):
        end = len(self.inode.cached) if size < 0 else self.at + size
        data = bytes(self.inode.cached[self.at : end])
        self.at += len(data)
        return data

    def write(self, data):
        data = bytes(data)
        at = len(self.inode.cached) if self.append else self.at
        with self.fs.step("write", self.path) as torn:
            if torn is not None:
                self.inode.change(at, data[: torn.randrange(len(data) + 1)])
        self.inode.change(at, data)
        self.at = at + len(data)
        return len(data)

    def seek(self, at):
        self.at = at
        return at

    def tell(self):
        return len(self.inode.cached) if self.append else self.at

    def seekable(self):
        return True

    def close(self):
        self.closed = True
        self.fs.locks.discard(self)


class _Step:
    def __init__(self, fs, kind, path):
        self.fs, self.kind, self.path = fs, kind, path

    def __enter__(self):
        fs = self.fs
        if fs.dead:
            raise Crash
        fs.done.append((self.kind, os.path.basename(self.path)))
        self.number = len(fs.done)
        late = fs.crash_at is not None and self.number >= fs.crash_at
        self.crashes = late and (fs.crash_kind or self.kind) == self.kind
        return fs.rng if self.crashes else None

    def __exit__(self, *error):
        fs = self.fs
        if self.crashes:
            fs.dead = True
            raise Crash
        if fs.read_only is not None and os.path.dirname(self.path) == fs.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self.path))
        if self.number == fs.fail_at:
            raise OSError(fs.code, os.strerror(fs.code), str(self.path))


class SimFS(FileSystem):
    """The file system; `files` is what is durably there at first."""

    def __init__(self, files=(), rng=None, crash_at=None, fail_at=None, code=errno.EIO):
        self.rng = rng or random.Random(0)
        self.crash_at, self.fail_at, self.code = crash_at, fail_at, code
        self.crash_kind: str | None = None
        self.read_only: str | None = None
        """A folder in which nothing can be changed."""
        self.done: list[tuple[str, str]] = []
        self.dead, self.free = False, 1 << 60
        self.locks: set[SimFile] = set()
        self.names_durable: dict[str, Inode] = {}
        self.names_pending: list[tuple[str, str | None, Inode | None]] = []
        """Unsynced changes of names: (name that goes, name that comes, file)."""
        for path, data in dict(files).items():
            inode = data if isinstance(data, Inode) else Inode(bytearray(data), bytearray(data))
            self.names_durable[str(path)] = inode
        self.cached = dict(self.names_durable)

    def free_bytes(self, path):
        return self.free

    def step(self, kind, path):
        return _Step(self, kind, path)

    def after_crash(self, rng, luck=None):
        """A machine with power again, and the files that survived; `luck` as in `Inode.settled`."""
        luck_of_names = rng.choice([0.0, 0.2, 0.5, 0.8, 1.0]) if luck is None else luck
        luck = rng.choice([0.0, 0.2, 0.5, 0.8, 1.0]) if luck is None else luck
        names = dict(self.names_durable)
        for gone, come, inode in self.names_pending:
            if rng.random() < luck_of_names:
                rename(names, gone, come, inode)
        found = {path: inode.holding(inode.settled(rng, luck)) for path, inode in names.items()}
        return SimFS(found, rng)

    def as_seen(self, rng=None):
        """A machine that was not down: everything is there as the programs saw it."""
        return SimFS({path: inode.holding(inode.cached) for path, inode in self.cached.items()}, rng)

    def content(self, path):
        inode = self.cached.get(str(path))
        return None if inode is None else bytes(inode.cached)

    def _name(self, gone, come, inode):
        rename(self.cached, gone, come, inode)
        self.names_pending.append((gone, come, inode))

    def _file(self, path):
        if self.dead:
            raise Crash
        return self.cached.get(str(path))

    def open_read(self, path):
        inode = self._file(path)
        return super().open_read(path) if inode is None else SimFile(self, str(path), inode)

    def open_write(self, path, append):
        inode, path = self._file(path), str(path)
        with self.step("open", path):
            pass
        if inode is None:
            inode = Inode()
            self._name(None, path, inode)
        elif not append:
            inode.change(0, None)
        return SimFile(self, path, inode, append)

    def shared(self, path, size):
        inode = self._file(path)
        if inode is None:
            inode = Inode()
            self._name(None, str(path), inode)
        inode.cached.extend(bytes(max(0, size - len(inode.cached))))  # nothing of it survives a loss of power
        return memoryview(inode.cached)

    def make_parents(self, path):
        pass

    def make_folder(self, folder):
        pass

    def read_bytes(self, path):
        inode = self._file(path)
        return super().read_bytes(path) if inode is None else bytes(inode.cached)

    def glob(self, pattern):
        found = [Path(path) for path in self.cached if fnmatch.fnmatch(path, pattern)]
        return sorted(found) or super().glob(pattern)

    def status(self, path):
        inode = self._file(path)
        if inode is None and self.names(path):
            return os.stat_result((stat.S_IFDIR | 0o700, 1, 1, 1, 0, 0, 0, 0, 0, 0))
        return super().status(path) if inode is None else self._status(inode)

    def status_of(self, file):
        return self._status(file.inode) if isinstance(file, SimFile) else super().status_of(file)

    def _status(self, inode):
        return SimpleNamespace(
            st_mode=stat.S_IFREG | 0o600,
            st_ino=inode.number,
            st_dev=1,
            st_nlink=sum(each is inode for each in list(self.cached.values())),  # others write meanwhile
            st_size=len(inode.cached),
            st_mtime_ns=inode.modified_ns,
            st_ctime_ns=inode.modified_ns,
        )

    def read_at(self, file, position, size):
        if isinstance(file, SimFile):
            return bytes(file.inode.cached[position : position + size])
        return super().read_at(file, position, size)

    def truncate(self, file, size):
        with self.step("truncate", file.path):
            pass
        file.inode.change(size, None)

    def names(self, folder):
        above = f"{folder}/"
        below = [path[len(above) :] for path in self.cached if path.startswith(above)]
        return sorted({path.partition("/")[0] for path in below})

    def sync_folder(self, folder):
        with self.step("sync_folder", str(folder)):
            pass
        for change in [c for c in self.names_pending if self._lies_in(c, str(folder))]:
            rename(self.names_durable, *change)
            self.names_pending.remove(change)

    def _lies_in(self, change, folder):
        return os.path.dirname(change[0] or change[1]) == folder

    def lock(self, path):
        if any(held.path == str(path) for held in self.locks):
            return None
        file = self.open_write(path, append=True)
        self.locks.add(file)
        return file

    def replace(self, path, target):
        inode = self.cached[str(path)]
        with self.step("rename", str(target)):
            pass
        self._name(str(path), str(target), inode)

    def remove(self, path):
        if str(path) in self.cached:
            with self.step("unlink", str(path)):
                pass
            self._name(str(path), None, None)

    def write(self, file, data):
        if len(data):
            file.write(data)

    def sync(self, file):
        try:
            with self.step("sync", file.path):
                pass
        except OSError:
            file.inode.pending.clear()  # the pages count as written and are not: no later sync helps
            raise
        file.inode.durable[:] = file.inode.cached
        file.inode.pending.clear()


def rename(names, gone, come, inode):
    if gone is not None:
        names.pop(gone, None)
    if come is not None:
        names[come] = inode
