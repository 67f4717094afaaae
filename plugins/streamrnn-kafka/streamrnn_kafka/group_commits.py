"""Commits of a member of a group: each partition on its own, its state in a file that the commit names.

docs/kafka.md says what happens if a member dies between any two of these steps:

1. the state of the partition at offset O, or what changed of it, is written to a file whose name holds O and
   a digest, and synced;
2. one transaction, or the offset commit of the group, makes O and the digest the group's, and the outputs
   before O visible;
3. files of the partition at offsets before O are removed, but for the last few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from streamrnn.commit.writer import Made
from streamrnn.errors import StateError
from streamrnn.ports import Resumable
from streamrnn_kafka.state_files import StateFiles

if TYPE_CHECKING:
    from streamrnn.config.model import Checkpoint
    from streamrnn.context import Context
    from streamrnn.line import Parts
    from streamrnn_kafka.live_source import KafkaSource

_COMMITS_PER_TIMEOUT = 3
_SESSIONS = 2
"""So many session time-outs after another took a partition over, the group must have noticed."""


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
        self._clock = context.clock
        source: Any = parts.source
        self._source: KafkaSource = source
        self._topic, self._group = source.config.topic, source.config.group
        sink: Any = parts.sink
        self._transactions: Transactions | None = sink if hasattr(sink, "acquire") else None
        self._check_times()
        self._files = StateFiles(folder, context, fixed, config.keep, f"group {self._group}")
        self._committed: dict[int, tuple[int, str]] = {}
        """Up to where each partition is committed, and what stands beside it; nothing, if it is not yet."""
        self._resting: dict[int, tuple[int, str]] = {}
        """The same of those whose state is at hand, and which the group is giving to somebody by now."""
        self._lost: dict[int, float] = {}
        """Partitions that another has taken over before the group said so, and since when."""
        self._last_s = self._clock.monotonic()
        self.told: Callable[[Made], None] = lambda made: None
        self.made: Made | None = None
        self.count = 0
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
        """See `Keeper`. Their state stays at hand: most come back once the group is formed anew."""
        self._lost.clear()
        lost = self._commit(partitions)
        self._forget(sorted(lost))
        stay = [number for number in partitions if number in self._committed]
        self._source.drop(stay, lambda: None)
        self._resting.update({number: self._committed.pop(number) for number in stay})

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """See `Keeper`. Raises `StateError` for a partition whose state is not there, or is another's."""
        resting, self._resting = self._resting, {}
        self._forget(sorted(resting.keys() - set(partitions)))
        if not partitions:
            return {}
        if self._transactions is not None:
            self._transactions.acquire(partitions)  # before its offset is read: now nobody else can move it
        committed = self._source.committed_offsets(partitions)
        fresh = [number for number in partitions if number not in committed]
        at = {number: (offset, "") for number, offset in self._source.first_offsets(fresh).items()}
        at.update(committed)
        # Another may have had a partition meanwhile, and have given it back with other state, or the same.
        stayed = sorted(n for n in resting.keys() & at if at[n] == resting[n])
        self._drop_state([number for number in partitions if number not in stayed])
        for number in committed.keys() - set(stayed):
            self._load(number, *committed[number])
        self._committed.update(at)
        text = "group %s: partitions %s have come, and of those that were here %s stay"
        self._context.log.info(text, self._group, sorted(set(partitions) - set(stayed)), stayed)
        return {number: offset for number, (offset, _) in at.items()}

    def close(self) -> None:
        """Nothing is held."""

    def _commit(self, partitions: Sequence[int]) -> set[int]:
        """Make the positions of partitions the group's; those that another has acquired meanwhile."""
        now = self._source.offsets()
        known = {number: self._committed.get(number, (None, ""))[0] for number in partitions}
        moved = {n: now[n] for n in partitions if n in now and now[n] != known[n]}
        if not moved:
            return set()
        if isinstance(self._parts.rejects, Resumable):
            self._parts.rejects.place()
        before, began_s = self._files.bytes, self._clock.monotonic()
        notes = {number: (offset, self._save(number, offset)) for number, offset in moved.items()}
        if self._transactions is not None:
            lost = self._transactions.commit(self._group, notes)
        else:
            self._parts.sink.flush()
            self._source.commit(notes)
            lost = set()
        for number in moved.keys() - lost:
            self._committed[number] = notes[number]
            self._files.committed(self._name(number))
        self.count += 1
        took_s = self._clock.monotonic() - began_s
        self.made = Made(self.count, self._parts.shards.events, self._files.bytes - before, took_s)
        self.told(self.made)
        return lost

    def _forget(self, partitions: Sequence[int]) -> None:
        """Have no more to do with these."""
        self._source.drop(partitions, lambda: None)
        self._drop_state(partitions)
        for number in partitions:
            self._committed.pop(number, None)
        if self._transactions is not None:
            self._transactions.release(partitions)

    def _drop_state(self, partitions: Sequence[int]) -> None:
        for number in partitions:
            self._parts.shards.drop(self._name(number))
            self._files.forget(self._name(number))

    def _save(self, number: int, offset: int) -> str:
        """Write the state of a partition; what is to stand beside its offset."""
        name = self._name(number)
        head = {"topic": self._topic, "partition": number}
        return self._files.save(name, head, offset, self._parts.shards.at(name))

    def _load(self, number: int, offset: int, note: str) -> None:
        """Make the state of a partition what it was at its committed offset."""
        name = self._name(number)
        if told := self._files.load(name, offset, note, self._parts.shards.at(name)):
            self._context.log.warning("%s", told)

    def _name(self, number: int) -> str:
        return f"{self._topic}-{number}"
