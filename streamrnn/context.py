"""What a pipeline may use of the world around it; a test puts its own in place of each."""

from __future__ import annotations

import errno
import fcntl
import glob
import logging
import mmap
import os
import random
import select
import selectors
import socket
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from streamrnn.cold import lmdb_opener
from streamrnn.errors import ModelError

if TYPE_CHECKING:
    from streamrnn.cold import ColdStore
    from streamrnn.hookspecs import Component

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP)
"""What fsync answers for a pipe or a device."""
_BACKLOG = 1024
"""Connections that wait to be taken; the system may allow fewer."""


class Clock(Protocol):
    """Time for progress, rate limits and what is logged; never for the rules, which use the events' own."""

    def monotonic(self) -> float:
        """Seconds since some moment."""
        ...

    def wall_us(self) -> int:
        """Microseconds since 1970; may jump either way. For what is written down, never for waiting."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return when so many seconds have passed."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Seconds since the machine started."""
        return time.monotonic()

    def wall_us(self) -> int:
        """The machine's idea of the date."""
        return time.time_ns() // 1000

    def sleep(self, seconds: float) -> None:
        """Wait; a signal's handler runs meanwhile."""
        time.sleep(seconds)


class ManualClock:
    """A clock that stands still until told otherwise."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def monotonic(self) -> float:
        """The seconds it was set to."""
        return self.now_s

    def wall_us(self) -> int:
        """The same seconds, as if it had been set in 1970."""
        return int(self.now_s * 1_000_000)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds

    def sleep(self, seconds: float) -> None:
        """Advance instead of waiting."""
        self.advance(seconds)


class Pending(Protocol):
    """Work that goes on beside the pipeline."""

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        ...

    def result(self) -> None:
        """Wait for its end; raises what it raised."""
        ...


class Thread:
    """A thread beside the stream, for one work after the other; starting one each time halts the caller."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, work: Callable[[], None]) -> Pending:
        """Begin work, once that before it has ended."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "streamrnn-aside")
        return self._pool.submit(work)


class FileSystem:
    """The files of this machine. All file access of a pipeline goes through one of these."""

    def open_read(self, path: Path) -> BinaryIO:
        """A file to read bytes from, unbuffered."""
        return open(path, "rb", buffering=0)

    def open_pipe(self, path: Path) -> BinaryIO:
        """What is no regular file, to read from, unbuffered; nobody need write to it yet."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(descriptor, True)
        return open(descriptor, "rb", buffering=0)

    def is_ready(self, file: BinaryIO, wait_ms: int) -> bool:
        """Whether a read of a pipe would give something, or its end, within so many milliseconds."""
        return bool(select.select([file], [], [], wait_ms / 1000)[0])

    def open_write(self, path: Path, append: bool) -> BinaryIO:
        """A file to write bytes to, unbuffered, made if absent."""
        return open(path, "ab" if append else "wb", buffering=0)

    def make_parents(self, path: Path) -> None:
        """Make the folder that a file is to lie in, and those above it."""
        path.parent.mkdir(parents=True, exist_ok=True)

    def read_bytes(self, path: Path) -> bytes:
        """All of a file."""
        return path.read_bytes()

    def glob(self, pattern: str) -> list[Path]:
        """The files that a pattern names, sorted."""
        return sorted(Path(found) for found in glob.glob(pattern, recursive=True) if os.path.isfile(found))

    def status(self, path: Path) -> os.stat_result | None:
        """What the system knows of the file at `path`; None if nothing is there."""
        try:
            return os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def status_of(self, file: BinaryIO) -> os.stat_result:
        """What the system knows of an open file, wherever it lies by now."""
        return os.fstat(file.fileno())

    def read_at(self, file: BinaryIO, position: int, size: int) -> bytes:
        """At most `size` bytes from `position` on; fewer only at the end of the file."""
        return os.pread(file.fileno(), size, position)

    def free_bytes(self, path: Path) -> int:
        """How much this user may still write to the disk that `path` lies on or would lie on."""
        while not path.exists() and path != path.parent:
            path = path.parent
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def truncate(self, file: BinaryIO, size: int) -> None:
        """Cut a file that is open for writing to its first `size` bytes."""
        os.ftruncate(file.fileno(), size)

    def names(self, folder: Path) -> list[str]:
        """The names in a folder, sorted; none if there is no such folder."""
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []

    def make_folder(self, folder: Path) -> None:
        """Make a folder for this user alone, and those above it; their names survive a loss of power."""
        if not folder.is_dir():
            self.make_folder(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
            self.sync_folder(folder.parent)

    def sync_folder(self, folder: Path) -> None:
        """Return when new, renamed and removed names in a folder would survive a loss of power."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise
        finally:
            os.close(descriptor)

    def lock(self, path: Path) -> BinaryIO | None:
        """Hold a lock until the file is closed or the process ends; None if another holds it."""
        file = self.open_write(path, append=True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def replace(self, path: Path, target: Path) -> None:
        """Rename a file; one that `target` names is lost."""
        os.replace(path, target)

    def remove(self, path: Path) -> None:
        """Remove a file, if there is one."""
        path.unlink(missing_ok=True)

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        """All of `data`; an unbuffered file may take less at a time."""
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]

    def shared(self, path: Path, size: int) -> memoryview:
        """A file of `size` bytes as memory, zeros at first: what is put there outlives the process.

        Not a loss of power. Raises `OSError`, also where a file system cannot do it.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            missing = size - os.fstat(descriptor).st_size
            if missing > 0:  # written, not only made longer: a full disk must not show when memory is touched
                os.pwrite(descriptor, bytes(missing), size - missing)
            return memoryview(mmap.mmap(descriptor, size))
        finally:
            os.close(descriptor)

    def sync(self, file: BinaryIO) -> None:
        """Return when what was written to a file would survive a loss of power, if it keeps anything."""
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise


class Net:
    """The sockets of this machine. All that a pipeline listens at is opened by one of these."""

    def selector(self) -> selectors.BaseSelector:
        """What waits for sockets."""
        return selectors.DefaultSelector()

    def listen_tcp(self, host: str, port: int) -> socket.socket:
        """A socket that takes connections at a host's first address; port 0 is any that is free."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
        return listening

    def listen_unix(self, path: Path) -> socket.socket:
        """A socket that takes connections of this user alone; a file nobody listens at is replaced."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if path.is_socket() and not self._answers(path):
                path.unlink()
            listening.bind(str(path))
            path.chmod(0o600)  # before `listen`, so that nobody came in
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
        return listening

    def send_datagram(self, address: str, data: bytes) -> None:
        """One message to a UNIX socket of datagrams; an address that begins with @ is an abstract one."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.sendto(data, "\0" + address[1:] if address.startswith("@") else address)

    def file_id(self, path: Path) -> tuple[int, int] | None:
        """What tells a file from another that took its place; None if there is none."""
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def remove(self, path: Path) -> None:
        """Remove the file of a socket."""
        path.unlink(missing_ok=True)

    def _answers(self, path: Path) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1)
            try:
                client.connect(str(path))
            except ConnectionRefusedError:
                return False
            except OSError:
                return True
        return True


class Stream(Protocol):
    """An open pipe or terminal."""

    def read(self, size: int, wait_ms: int) -> bytes | None:
        """What has arrived, at most `size` bytes; b"" at the end, None if nothing came for `wait_ms`."""
        ...

    def write(self, data: bytes) -> None:
        """All of `data`."""
        ...


class DescriptorStream:
    """A `Stream` over an open file descriptor, which stays its owner's to close."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, size: int, wait_ms: int) -> bytes | None:
        """See `Stream.read`."""
        ready, _, _ = select.select([self._descriptor], [], [], wait_ms / 1000)
        return os.read(self._descriptor, size) if ready else None

    def offset(self) -> int | None:
        """Where the next read of a regular file begins; None for anything else."""
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            return None
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def seek(self, offset: int) -> None:
        """Let the next read of a regular file begin there."""
        os.lseek(self._descriptor, offset, os.SEEK_SET)

    def write(self, data: bytes) -> None:
        """See `Stream.write`."""
        left = memoryview(data)
        while left:
            left = left[os.write(self._descriptor, left) :]


@dataclass
class Context:
    """The world of one pipeline: files, sockets, standard streams, clock, chance, log, and where paths begin.

    `base_dir` is the folder of the pipeline's file; relative paths in it start there.
    """

    base_dir: Path = field(default_factory=Path.cwd)
    fs: FileSystem = field(default_factory=FileSystem)
    net: Net = field(default_factory=Net)
    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("streamrnn"))
    models: Callable[[str, Path], Path | None] | None = None
    """Asked where a model's file is, with its name and `base_dir`; None takes names for paths."""
    backends: Callable[[str], Component | None] | None = None
    """Asked for a backend by its type, for `type: auto`; None knows none."""
    trusts_code: bool = False
    """Whether the pipeline's file says `trust: code`: only then may a model be more than data."""
    resuming: bool = False
    """Whether the outputs of an earlier run are gone on with: what is there must not be emptied."""
    commits_kept: int = 0
    """How many commits stay of a pipeline with `checkpoint`; 0 without."""
    aside: Callable[[Callable[[], None]], Pending] = field(default_factory=Thread)
    """Begins work that the stream need not wait for."""
    cold: Callable[[Path, bool], Callable[[], ColdStore]] = lmdb_opener
    """Asked for what opens places for cold keys, in a folder; see `streamrnn.cold`."""
    stdin: Stream = field(default_factory=lambda: DescriptorStream(0))
    stdout: Stream = field(default_factory=lambda: DescriptorStream(1))

    def path(self, name: str) -> Path:
        """A path of the pipeline file, made absolute."""
        return self.base_dir / name

    def model_path(self, name: str) -> Path:
        """The local file of a model that a pipeline names. Raises `ModelError` if nobody knows it."""
        found = self.models(name, self.base_dir) if self.models else self.path(name)
        if found is None:
            raise ModelError(f"no installed plugin can find the model '{name}'; expected a path")
        return found
