"""A second model beside the first one: compared, answering for a share of the keys, taking over, or going.

As no rule looks at a model, what is right is known from two runs, each of one model alone.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from click.testing import CliRunner
from daemon_parts import SUM, checkpoint, hosted, pipeline
from test_daemon_reload import end, reload
from test_warmup import OTHER, SOURCES, TEXT, alone, answers, events, serve_all, write
from toys import Toy

from streamrnn.cli.lint import command as lint
from streamrnn.core import Core
from streamrnn.core.candidate import Share, Tally, WithCandidate
from streamrnn.daemon.hosted import RefusedError
from streamrnn.events import Batch


def candidate(share, update=OTHER, state="warmup", salt="s"):
    model = f"{{type: formula, state: {{H: 0}}, update: {{H: {update}}}, output: {{y: H}}}}"
    return f"candidate: {{model: {model}, share: {share}, salt: {salt}, state: {state}}}"


class Story:
    """A pipeline that is served, killed and reloaded; `phases` are who answers from which answer on."""

    def __init__(self, folder, source, lines, seed):
        self.folder, self.source, self.rng = folder, source, random.Random(seed)
        folder.mkdir()
        write(folder, lines)
        self.phases = [(0, Share(0))]
        self.put(SUM)
        self.it = hosted(str(folder / "p.yaml"))
        self.turns()

    def put(self, update, more=""):
        more = f"{checkpoint('p', ', model_change: warmup')}\nlimits: {{max_batch_events: 5}}\n{more}"
        return pipeline(self.folder, source=self.source, update=update, more=more, text=TEXT)

    def turns(self):
        goal = self.served + self.rng.randrange(1, 15)
        while self.served < goal:
            self.it.turn()
        assert self.it.error == ""

    def kill(self):
        """What no commit holds is served again, the same."""
        self.it.pipeline.close(RuntimeError("killed"))
        self.it = hosted(self.it.opened.file)
        self.it.turn()
        assert self.it.error == ""

    def change(self, update, more, share):
        """By a reload, or at the next start."""
        self.put(update, more)
        if self.rng.random() < 0.6:
            self.phases.append((self.served, share))
            reload(self.it)
        else:
            self.it.pipeline.commits.commit()
            self.phases.append((self.served, share))
            self.kill()
        self.turns()
        self.it.pipeline.commits.commit()
        self.turns()
        if self.rng.random() < 0.4:
            self.kill()

    @property
    def served(self):
        return len(answers(self.folder)) if (self.folder / "p.out").exists() else 0

    def whose(self, i, key):
        share = [share for start, share in self.phases if start <= i][-1]
        return "new" if share.holds([key])[0] else "old"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", SOURCES)
def test_whoever_answers_does_so_as_if_alone(tmp_path, kind, seed):
    """With a share that changes, kills, and at the end the candidate promoted or gone."""
    rng, source = random.Random(seed), SOURCES[kind]
    lines = events(rng, 160)
    runs = {n: alone(tmp_path / n, source, u, lines) for n, u in (("old", SUM), ("new", OTHER))}
    story = Story(tmp_path / "job", source, lines, seed)
    story.change(SUM, candidate(0.5), Share(0.5, "s"))
    story.change(SUM, candidate(0.9), Share(0.9, "s"))
    story.change(SUM, candidate(0), Share(0))
    if rng.random() < 0.5:
        story.change(OTHER, "", Share(1))
    else:
        story.change(SUM, "", Share(0))
    serve_all(story.it, story.folder, len(runs["old"]))
    end(story.it)
    found = answers(story.folder)
    for i, answer in enumerate(found):
        assert answer == runs[story.whose(i, answer["k"])][answer["n"]], (i, story.phases)
    assert {story.whose(i, answer["k"]) for i, answer in enumerate(found)} == {"old", "new"}


def test_in_the_shadow_it_is_told_how_much_answers_differ_and_for_which_keys(tmp_path):
    lines = events(random.Random(9), 120)
    source = SOURCES["a file that grows"]
    runs = {n: alone(tmp_path / n, source, u, lines) for n, u in (("old", SUM), ("new", OTHER))}
    folder = tmp_path / "job"
    folder.mkdir()
    write(folder, lines)
    it = hosted(pipeline(folder, source=source, more=candidate(0, state="reset"), text=TEXT))
    serve_all(it, folder, len(runs["old"]))
    tally = it.pipeline.parts.candidate.tally
    end(it)
    assert [answer["y"] for answer in answers(folder)] == [each["y"] for each in runs["old"].values()]
    apart = {}
    for n, old in runs["old"].items():
        distance = abs(old["y"] - runs["new"][n]["y"]) / (1 + abs(old["y"]))
        apart[old["k"]] = max(apart.get(old["k"], 0.0), distance)
    assert tally.worst == pytest.approx({key: most for key, most in apart.items() if most})
    assert tally.largest == pytest.approx(max(apart.values()))
    assert (tally.events, tally.apart, tally.answered) == (len(runs["old"]), 0, 0)
    assert 0 < tally.differing < tally.events


@pytest.mark.parametrize(("state", "expected"), [("keep", 3.0), ("reset", 1.0)])
def test_it_begins_as_is_said(tmp_path, state, expected):
    (tmp_path / "p.in").write_text('{"k": "a", "x": 2}\n')
    source = SOURCES["a file that grows"]
    it = hosted(pipeline(tmp_path, source=source, more=checkpoint()))
    serve_all(it, tmp_path, 1)
    pipeline(tmp_path, source=source, more=checkpoint() + "\n" + candidate(1, "1.0*H + x", state))
    reload(it)
    with open(tmp_path / "p.in", "a") as file:
        file.write('{"k": "a", "x": 1}\n')
    serve_all(it, tmp_path, 2)
    end(it)
    assert [answer["y"] for answer in answers(tmp_path)] == [2.0, expected]


@pytest.mark.parametrize("restarts", [False, True])
def test_where_it_began_with_nothing_counts_once_it_is_the_model(tmp_path, restarts):
    """A third model that is warmed up begins each key where the promoted one did."""

    def put(n, update, more=""):
        file = pipeline(tmp_path, source=SOURCES["a file that grows"], update=update,
                        more=checkpoint("p", ", model_change: warmup") + "\n" + more)  # fmt: skip
        with open(tmp_path / "p.in", "a") as events:
            events.write('{"k": "a", "x": 1}\n')
        nonlocal it
        if it is None:
            it = hosted(file)
        elif restarts:
            end(it)
            it = hosted(file)
        else:
            reload(it)
        serve_all(it, tmp_path, n)

    it = None
    put(1, SUM)
    put(2, SUM, candidate(0, "2*H + x", "reset"))
    put(3, SUM, candidate(0, "2*H + x", "reset"))
    put(4, "2*H + x")
    put(5, "3*H + x")
    end(it)
    assert [answer["y"] for answer in answers(tmp_path)] == [1, 2, 3, 7, 40]


def test_states_of_another_shape_are_not_kept(tmp_path):
    (tmp_path / "p.in").write_text('{"k": "a", "x": 2}\n')
    it = hosted(pipeline(tmp_path))
    it.turn()
    other = candidate(0, state="keep").replace("state: {H: 0}", "state: {H: 0, G: 0}")
    pipeline(tmp_path, more=other.replace("update: {", "update: {G: x, "))
    with pytest.raises(RefusedError, match=r"(?s)`keep` cannot take over.*model\.state"):
        reload(it)
    end(it)


class Broken(Toy):
    def step(self, state, x):
        raise RuntimeError("not today")


def test_in_the_shadow_nothing_that_it_raises_touches_the_stream():
    told, plain = [], Core(Toy())

    class Raising(Core):
        def process(self, batch):
            raise MemoryError("too much")

    core = WithCandidate(
        Toy(), candidate=Raising(Toy()), share=Share(), tally=Tally(0.0), on_failure=told.append
    )
    batch = Batch(["a", "b", "a"], {"x": np.ones((3, 2))})
    for _ in range(2):
        mine, alone_ = core.process(batch), plain.process(batch)
        assert mine.y["y"].tobytes() == alone_.y["y"].tobytes()
    assert told == [core.tally.error] == ["MemoryError: too much"]
    assert core.candidate is None


def test_events_that_only_one_of_them_answers_are_counted_and_refused_by_whose_key_it_is():
    keys = [f"k{i}" for i in range(40)]
    share = Share(0.5)
    core = WithCandidate(
        Toy(), candidate=Core(Broken(scans=False)), share=share, tally=Tally(0.0), on_failure=print
    )
    outputs = core.process(Batch(keys, {"x": np.ones((40, 2))}))
    theirs = np.flatnonzero(share.holds(keys))
    assert sorted(outputs.refused) == theirs.tolist()
    assert outputs.accepted.tolist() == np.flatnonzero(~share.holds(keys)).tolist()
    assert (core.tally.events, core.tally.apart) == (0, 40)


def test_a_share_is_of_keys_and_another_salt_takes_others():
    keys = [f"key{i}" for i in range(20_000)]
    held = Share(0.05, "a").holds(keys)
    assert abs(held.mean() - 0.05) < 0.01
    assert (Share(0.5, "a").holds(keys) >= held).all(), "a larger share holds the smaller one"
    assert (Share(0.05, "b").holds(keys) != held).mean() > 0.05
    assert Share(1).holds(keys).all()
    assert not Share(0).holds(keys).any()


def test_other_outputs_are_refused_with_both_named(tmp_path):
    file = pipeline(tmp_path, more=candidate(0, state="reset").replace("output: {y: H}", "output: {z: H}"))
    told = CliRunner().invoke(lint, [file])
    assert told.exit_code == 1
    assert "candidate.model: expected the outputs of model, y float64 []; found z float64 []" in told.output


def test_the_daemon_tells_how_they_compare(tmp_path):
    """By the API, at the terminal and among the metrics."""
    import subprocess
    import sys

    from daemon_parts import running, until

    from streamrnn.daemon.metrics import Metrics

    (tmp_path / "p.in").write_text('{"k": "a", "x": 1}\n{"k": "b", "x": 2}\n{"k": "a", "x": 2}\n')
    pipeline(tmp_path, source=SOURCES["a file that grows"], more=candidate(0, "H + 2*x", "reset"))
    with running(tmp_path) as daemon:
        it = daemon.fleet.find("p")
        until(lambda: it.tally and it.tally.events == 3)
        page = Metrics(daemon.fleet).page().decode()
    assert 'streamrnn_candidate_differing_events{pipeline="p"} 3.0' in page
    serve = subprocess.Popen(
        [sys.executable, "-m", "streamrnn", "serve", str(tmp_path), "--admin", f"unix:{tmp_path}/admin"],
        stderr=subprocess.DEVNULL,
    )

    def asked(*command):
        command = [sys.executable, "-m", "streamrnn", *command, "--admin", f"unix:{tmp_path}/admin"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.stdout if done.returncode == 0 else ""

    try:
        until(lambda: "3 events compared" in asked("candidate", "p"))
        assert asked("candidate", "p").splitlines() == [
            "3 events compared, 3 differ, 0 answered by one alone",
            "the candidate answers for 0.00% of the keys, 0 events so far",
            "largest distance 0.75",
            "0.75\ta",
            "0.666667\tb",
        ]
        assert "candidate: 0% of the keys, 3 of 3 differ" in asked("top", "--once", "--every", "0.1")
    finally:
        serve.terminate()
        assert serve.wait(30) == 0


def test_a_run_tells_at_its_end(tmp_path):
    import subprocess
    import sys

    (tmp_path / "p.in").write_text('{"k": "a", "x": 1}\n{"k": "b", "x": 2}\n')
    file = pipeline(tmp_path, more=candidate(1, "H + 2*x", "reset"))
    done = subprocess.run(
        [sys.executable, "-m", "streamrnn", "run", file], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert [answer["y"] for answer in answers(tmp_path)] == [2, 4]
    told = done.stderr.splitlines()
    at = told.index("2 events compared, 2 differ, 0 answered by one alone")
    assert told[at + 1 :] == [
        "the candidate answers for 100.00% of the keys, 2 events so far",
        "largest distance 0.666667",
        "0.666667\tb",
        "0.5\ta",
    ]
