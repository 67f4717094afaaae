"""The contract of what looks on while events are served, lest the process die of one again and again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from streamrnn.events import Block


class Watch(Protocol):
    """Sees to it that an event of which the process dies is found; see `commit.suspects`.

    `now` is what is being served, or was last; it may be read on any thread.
    """

    now: Block | None

    def parts(self, block: Block) -> Iterable[tuple[int, Block]]:
        """The parts in which a block is to be served, each with the record that it begins with.

        The next is asked for once one was served.
        """
        ...

    def serving(self, block: Block) -> None:
        """One of them is served from now on."""
        ...

    def served(self, block: Block) -> None:
        """And has been."""
        ...

    def signalled(self) -> None:
        """The run was told to end; called on any thread."""
        ...

    def close(self) -> None:
        """The run has ended by itself, well or with an error."""
        ...


class Unwatched:
    """A `Watch` that only knows what is served."""

    now: Block | None = None

    def parts(self, block: Block) -> Iterable[tuple[int, Block]]:
        """See `Watch.parts`."""
        return ((0, block),)

    def serving(self, block: Block) -> None:
        """See `Watch.serving`."""
        self.now = block

    def served(self, block: Block) -> None:
        """See `Watch.served`."""

    def signalled(self) -> None:
        """See `Watch.signalled`."""

    def close(self) -> None:
        """See `Watch.close`."""
