"""What can be asked of a pipeline that is serving, each done between two batches on its own thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from streamrnn.commit.control import apply_reset
from streamrnn.commit.job import described
from streamrnn.commit.keys import KeyStates
from streamrnn.commit.writer import Commits
from streamrnn.core.columns import catch_up
from streamrnn.core.segment import header_of
from streamrnn.daemon.hosted import RefusedError

if TYPE_CHECKING:
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.core import Core
    from streamrnn.pipeline import Pipeline


def commit(pipeline: Pipeline) -> int | None:
    """Commit now; the number of the commit, None where the source keeps its own. Raises `RefusedError`."""
    if pipeline.commits is None:
        raise RefusedError(f"{pipeline.parts.name} has no checkpoint, so there is nothing to commit to")
    pipeline.commits.commit()
    made = pipeline.commits.made
    return made.number if made else None


def reset(pipeline: Pipeline, what: Mapping[str, Any]) -> int:
    """Let keys begin anew, `what` as in docs/daemon.md; how many they are. Raises `RefusedError`.

    In a pipeline with `checkpoint` it is in control.log before it takes effect, and committed when this
    returns.
    """
    shards, commits = pipeline.parts.shards, pipeline.commits
    partition = what.get("partition")
    if partition is not None and partition not in dict(shards.items()):
        raise RefusedError(
            f"no partition '{partition}'; there are: {', '.join(dict(shards.items())) or 'none'}"
        )
    if not isinstance(commits, Commits):
        count = apply_reset(shards, what, pipeline.heed)
        if commits is not None:
            commits.commit()
        return count
    agree(commits, {"reset": dict(what)})
    count = apply_reset(shards, what, pipeline.heed)
    commits.done()
    return count


def agree(commits: Commits, command: Mapping[str, Any]) -> None:
    """See `Commits.agree`. Raises `RefusedError` where no commit can be made now."""
    try:
        commits.agree(command)
    except RuntimeError as error:
        raise RefusedError(f"not now: {error}; try again later") from error


def look(pipeline: Pipeline, spec: PipelineSpec, key: str, partition: str | None) -> dict[str, Any]:
    """All that is known of a key, by partition. Raises `RefusedError` for one that has no state."""
    found = {}
    for name, core in pipeline.parts.shards.items():
        states = None if partition not in (None, name) else _states(core, name, spec, key)
        if states is not None:
            found[name] = {"facts": states.facts(key), "state": states.state(key)}
    if not found:
        live = len(pipeline.parts.shards)
        raise RefusedError(f"key '{key}' has no state in {pipeline.parts.name}; {live} others have")
    return found


def _states(core: Core, partition: str, spec: PipelineSpec, key: str) -> KeyStates | None:
    """One row, as a commit would have it."""
    store = core.store
    if not store.alive([key]):
        return None
    rows = store.keys.index.find([key])
    columns = {name: column[rows].copy() for name, column in store.columns.arrays.items()}
    catch_up(columns, store.epochs)
    header = header_of(store, base=True)
    manifest = {"pipeline": described(spec), "number": 0, "events": store.sequence}
    states = KeyStates(0, partition, header, manifest, columns=columns, tensors=store.slab.read(rows))
    states.rows = {key: 0}
    return states
