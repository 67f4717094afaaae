"""Commits of a member of a group: each partition on its own, its state in a file that the commit names.

docs/kafka.md says what happens if a member dies between any two of these steps:

1. the state of the partition at offset O is written to a file whose name holds O and a digest, and synced;
2. one transaction, or the offset commit of the group, makes O and the digest the group's, and the outputs
   before O visible;
3. files of the partition at offsets before O are removed, but for the last few.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from streamrnn.commit.recovery import refuse_other
from streamrnn.commit.writer import Made
from streamrnn.errors import StateError
from streamrnn.ports import Resumable

if TYPE_CHECKING:
    from streamrnn.config.model import Checkpoint
    from streamrnn.context import Context
    from streamrnn.pipeline import Parts
    from streamrnn_kafka.live_source import KafkaSource

FORMAT = 1
_COMMITS_PER_TIMEOUT = 3
_SESSIONS = 2
"""So many session time-outs after another took a partition over, the group must have noticed."""
_NOTE = re.compile(r"streamrnn state (\d+) ([0-9a-f]{64})")
"""What stands beside a committed offset: the format, and the digest of the file of state."""
_FILE = re.compile(r"(\d{20})-([0-9a-f]{16})\.state")


class Transactions(Protocol):
    """A sink whose outputs become visible together with the offsets they answer, partition by partition."""

    def acquire(self, partitions: Sequence[int]) -> None:
        """Become the only one who may write for these; what another had begun for them is aborted."""
        ...

    def commit(self, group: str, offsets: Mapping[Any, tuple[int, str]]) -> set[int]:
        """Commit outputs and offsets. Returns the partitions that another has acquired meanwhile."""
        ...

    def release(self, partitions: Sequence[int]) -> None:
        """Write for these no more."""
        ...


class GroupCommits:
    """Commits of the partitions that this member has by now. `fixed` says what the state is of."""

    def __init__(
        self, folder: Path, config: Checkpoint, parts: Parts, context: Context, fixed: Mapping[str, Any]
    ) -> None:
        self.folder, self._config, self._parts, self._context = folder, config, parts, context
        self._fs, self._clock, self._fixed = context.fs, context.clock, fixed
        source: Any = parts.source
        self._source: KafkaSource = source
        self._topic, self._group = source.config.topic, source.config.group
        sink: Any = parts.sink
        self._transactions: Transactions | None = sink if hasattr(sink, "acquire") else None
        self._check_times()
        self._committed: dict[int, int] = {}
        """Up to where each partition is committed."""
        self._lost: dict[int, float] = {}
        """Partitions that another has taken over before the group said so, and since when."""
        self._last_s = self._clock.monotonic()
        self.told: Callable[[Made], None] = lambda made: None
        self.made: Made | None = None
        self.count = self._bytes = 0
        self.longest_s = 0.0
        """How long the stream stood still for a commit, at most."""

    def _check_times(self) -> None:
        timeout_s = getattr(self._transactions, "transaction_timeout_s", None)
        if timeout_s is not None and _COMMITS_PER_TIMEOUT * self._config.every_s > timeout_s:
            raise StateError(
                f"sink.transaction_timeout_s: expected at least {_COMMITS_PER_TIMEOUT} times "
                f"checkpoint.every_s = {self._config.every_s:g}, found {timeout_s:g}; the broker would abort "
                "transactions before they are committed"
            )

    def turn(self, events: int) -> None:
        """Commit if the time has come; called between batches.

        Raises `StateError` if a partition that another has taken over stays assigned to this member.
        """
        now_s = self._clock.monotonic()
        if now_s - self._last_s >= self._config.every_s:
            self.commit()
        patience_s = _SESSIONS * self._source.config.session_timeout_s
        if stuck := [number for number, since_s in self._lost.items() if now_s - since_s > patience_s]:
            raise StateError(
                f"{self._name(stuck[0])}: another writes for this partition, but the group has not given it "
                "away; is the same group used by different pipelines?"
            )

    def commit(self) -> None:
        """Commit all partitions that have moved."""
        self._last_s = self._clock.monotonic()
        lost = sorted(self._commit(list(self._committed)))
        if lost:
            self._forget(lost)
            self._lost.update(dict.fromkeys(lost, self._last_s))
            text = "%s: another member has taken over and serves anew what was not committed"
            self._context.log.warning(text, ", ".join(map(self._name, lost)))
        self.longest_s = max(self.longest_s, self._clock.monotonic() - self._last_s)

    def revoked(self, partitions: Sequence[int]) -> None:
        """See `Keeper`."""
        self._lost.clear()
        self._commit(partitions)
        self._forget(partitions)

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """See `Keeper`. Raises `StateError` for a partition whose state is not there, or is another's."""
        if self._transactions is not None:
            self._transactions.acquire(partitions)  # before its offset is read: now nobody else can move it
        committed = self._source.committed_offsets(partitions)
        fresh = [number for number in partitions if number not in committed]
        offsets = dict(self._source.first_offsets(fresh))
        for number, (offset, note) in committed.items():
            self._load(number, offset, note)
            offsets[number] = offset
        self._committed.update(offsets)
        return offsets

    def close(self) -> None:
        """Nothing is held."""

    def _commit(self, partitions: Sequence[int]) -> set[int]:
        """Make the positions of partitions the group's; those that another has acquired meanwhile."""
        now = self._source.offsets()
        moved = {n: now[n] for n in partitions if n in now and now[n] != self._committed.get(n)}
        if not moved:
            return set()
        if isinstance(self._parts.rejects, Resumable):
            self._parts.rejects.place()
        self._bytes, began_s = 0, self._clock.monotonic()
        notes = {number: (offset, self._save(number, offset)) for number, offset in moved.items()}
        if self._transactions is not None:
            lost = self._transactions.commit(self._group, notes)
        else:
            self._parts.sink.flush()
            self._source.commit(notes)
            lost = set()
        for number in moved.keys() - lost:
            self._committed[number] = moved[number]
            self._prune(number, moved[number])
        self.count += 1
        took_s = self._clock.monotonic() - began_s
        self.made = Made(self.count, self._parts.shards.events, self._bytes, took_s)
        self.told(self.made)
        return lost

    def _forget(self, partitions: Sequence[int]) -> None:
        """Have no more to do with these."""
        self._source.drop(partitions, lambda: None)
        for number in partitions:
            self._parts.shards.drop(self._name(number))
            self._committed.pop(number, None)
        if self._transactions is not None:
            self._transactions.release(partitions)

    def _save(self, number: int, offset: int) -> str:
        """Write the state of a partition; what is to stand beside its offset."""
        head = {**self._fixed, "group_format": FORMAT, "topic": self._topic, "partition": number}
        core = self._parts.shards.at(self._name(number))
        encoded = json.dumps({**head, "offset": offset}, sort_keys=True).encode()
        data = encoded + b"\n" + core.snapshot()
        digest = blake2b(data, digest_size=32).hexdigest()
        self._bytes += len(data)
        folder = self.folder / self._name(number)
        path = folder / f"{offset:020d}-{digest[:16]}.state"
        unfinished = path.with_suffix(f".{self._context.rng.getrandbits(64):016x}.tmp")
        try:
            self._fs.make_folder(folder)
            with closing(self._fs.open_write(unfinished, append=False)) as file:
                self._fs.write(file, data)
                self._fs.sync(file)
            self._fs.replace(unfinished, path)
            self._fs.sync_folder(folder)
        except OSError as error:
            where = error.filename or folder
            raise StateError(f"checkpoint: {where}: cannot write: {error.strerror}") from error
        return f"streamrnn state {FORMAT} {digest}"

    def _load(self, number: int, offset: int, note: str) -> None:
        """Make the state of a partition what it was at its committed offset."""
        name = self._name(number)
        found = _NOTE.fullmatch(note)
        if found is None or int(found[1]) != FORMAT:
            raise StateError(
                f"{name}: group {self._group} has committed offset {offset}, but not with state of this "
                "version (its offsets were reset, or another program has committed it); take another group, "
                "or delete this one's offsets to begin anew"
            )
        path = self.folder / name / f"{offset:020d}-{found[2][:16]}.state"
        try:
            data = self._fs.read_bytes(path)
        except FileNotFoundError as error:
            raise StateError(
                f"{path}: group {self._group} has committed {name} at offset {offset} with this file as its "
                "state, and it is missing; all members of a group need the same checkpoint dir"
            ) from error
        if blake2b(data, digest_size=32).hexdigest() != found[2]:
            raise StateError(f"{path}: its {len(data)} bytes do not match their digest")
        head, _, segment = data.partition(b"\n")
        was = json.loads(head)
        refuse_other(self.folder, was["pipeline"], self._fixed["pipeline"])
        if note := self._parts.shards.at(name).restore([segment]) or "":
            self._context.log.warning("%s", note)

    def _prune(self, number: int, offset: int) -> None:
        """Remove what lies before a committed offset, but for as many as are to be kept.

        What lies behind it may be another's, who has taken the partition over while this member slept.
        """
        folder = self.folder / self._name(number)
        names = [name for name in self._fs.names(folder) if _FILE.fullmatch(name)]
        older = [name for name in names if int(name[:20]) < offset]
        with suppress(OSError):  # whoever comes next will
            for name in older[: len(older) - self._config.keep + 1]:
                self._fs.remove(folder / name)

    def _name(self, number: int) -> str:
        return f"{self._topic}-{number}"
