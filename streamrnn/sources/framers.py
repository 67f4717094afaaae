"""Where a framer stands, for sources that can be gone on with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamrnn.errors import SourceError
from streamrnn.ports import Resumable

if TYPE_CHECKING:
    from logging import Logger

    from streamrnn.ports import Framer, Place


def place_of(framer: Framer) -> Place | None:
    """Its place, if the codec's framers have one."""
    return framer.place() if isinstance(framer, Resumable) else None


def place_in(framer: Framer) -> Place:
    """Its place. Raises `SourceError` if the codec's framers have none."""
    place = place_of(framer)
    if place is None:
        raise SourceError(
            "the codec of `decode` cannot go on in the midst of a file, since its framer has no place() and "
            "resume(); leave `checkpoint` out, or take another codec"
        )
    return place


def tell_unfinished(log: Logger, name: str, framer: Framer, fed: int) -> None:
    """Warn of what was read of a record whose end was not waited for; `fed` is where reading stopped."""
    if missing := fed - framer.position:
        text = "%s: stopped in the midst of a record; the %d bytes that were read of it are lost"
        log.warning(text, name, missing)


def resumed(framer: Framer, place: Place) -> Framer:
    """The framer, gone on to a place."""
    if isinstance(framer, Resumable):
        framer.resume(place)
    return framer
