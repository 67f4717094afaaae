import ast
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from streamrnn import hookspecs
from streamrnn.build import build_pipeline
from streamrnn.config.load import load_pipeline
from streamrnn.errors import ConfigError
from streamrnn.hookspecs import Component, hookimpl
from streamrnn.pipeline import run
from streamrnn.pipeline_tests import Case, run_case
from streamrnn.registry import Registry
from streamrnn.testing import quiet_context, run_pipeline

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import options  # noqa: E402

PAGES = sorted(
    [
        ROOT / "README.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("pipelines/*.md"),
        *ROOT.glob("plugins/*/README.md"),
    ]
)
PLUGINS, PIPELINES = ROOT / "docs/plugins.md", ROOT / "docs/pipelines.md"
EXAMPLE = ROOT / "plugins/streamrnn-example/streamrnn_example.py"


def blocks(page, language):
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", page.read_text())


def anchors(page):
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    for target in targets:
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", [PIPELINES, PLUGINS], ids=lambda page: page.name)
def test_what_is_printed_is_what_there_is(page):
    hint = f"renew it with: python tools/options.py docs/{page.name}"
    assert page.read_text() == options.renewed(page.read_text()), hint


def test_every_table_is_printed():
    printed = re.findall(r"<!-- begin (\S+) -->", PIPELINES.read_text())
    assert sorted(printed) == sorted(options.tables())


@pytest.mark.parametrize("name", [name for name in vars(hookspecs) if name.startswith("streamrnn_")])
def test_every_hook_has_a_section_and_an_example(name):
    arguments = inspect.signature(getattr(hookspecs, name)).parameters
    _, _, section = PLUGINS.read_text().partition(f"\n### {name}({', '.join(arguments)})\n")
    example = re.search(r"(?s)```python\n(.*?)```", section.partition("\n#")[0])
    assert example, "no section with this heading, or none with an example"
    (function,) = ast.parse(example[1]).body
    assert function.name == name
    assert {argument.arg for argument in function.args.args} <= set(arguments)


def sections(text):
    """The top-level sections of a pipeline file as texts, by name."""
    return {part.partition(":")[0]: part for part in re.split(r"(?m)^(?=\w)", text) if part.strip()}


def whole_pipelines(page):
    return [block for block in blocks(page, "yaml") if block.startswith("name:")]


def shown_in_part():
    """The shorter examples of docs/pipelines.md, each laid over the first one."""
    first, *others = map(sections, blocks(PIPELINES, "yaml"))
    base = {name: text for name, text in first.items() if name != "tests"}
    return ["".join({**base, **shown}.values()) for shown in others]


def load(text):
    registry, context = Registry(), quiet_context(base_dir=ROOT / "pipelines")
    return load_pipeline(text, "block.yaml", registry, context, {}), registry, context


@pytest.mark.parametrize(
    "text",
    [*(t for page in PAGES if page.parent.name == "docs" for t in whole_pipelines(page)), *shown_in_part()],
)
def test_pipelines_are_without_mistakes_and_their_tests_hold(text):
    spec, registry, context = load(text)
    for index in range(len(spec.file.tests)):
        assert run_case(Case(spec, registry, context, index)) == []


@pytest.mark.parametrize("text", whole_pipelines(ROOT / "README.md"))
def test_the_readme_lacks_nothing_but_the_readers_own_files(text):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert [f.path for f in caught.value.findings if "cannot read" not in f.message] == []


def test_the_example_plugin_is_short():
    assert len(EXAMPLE.read_text().splitlines()) < 70


SHOWN = {"source": "numbers", "sink": "tally", "codec": "plain", "feature": "cyclic", "reset": "falls"}


def shown_components():
    """The components that docs/plugins.md shows, made from the code in it."""
    imports = next(block for block in blocks(PLUGINS, "python") if block.startswith("from typing"))
    for kind, name in SHOWN.items():
        code = re.search(rf"(?s)\n### {kind}\n.*?```python\n(.*?)```", PLUGINS.read_text())[1]
        names = {}
        exec(imports + code, names)
        config = names[re.search(r"class (\w+Options)", code)[1]]
        yield Component(kind, name, config, names["build"], "shown in the docs")


@pytest.fixture
def registry():
    plugin, found = ModuleType("shown"), Registry(entry_points=[])
    plugin.streamrnn_components = hookimpl(specname="streamrnn_components")(lambda: list(shown_components()))
    found.add(plugin, "docs")
    return found


def pipeline(**changes):
    parts = {
        "source": "{type: stdin}",
        "decode": "{type: jsonl}",
        "event": "{inputs: {x: [{field: x}]}}",
        "model": '{type: formula, state: {s: 0}, update: {s: s + x}, output: {y: "1.0 * s"}}',
        "encode": "{type: jsonl}",
        "sink": "{type: stdout}",
    }
    return "".join(f"{name}: {text}\n" for name, text in (parts | changes).items())


@pytest.mark.parametrize(
    ("sink", "written"), [("{type: tally, path: out}", "3\n"), ("{type: file, path: out}", "1.0\n3.0\n6.0\n")]
)
def test_the_source_sink_and_codec_shown_work(registry, tmp_path, sink, written):
    text = pipeline(source="{type: numbers, last: 3}", encode="{type: plain, field: y}", sink=sink)
    context = quiet_context(base_dir=tmp_path)
    spec = load_pipeline(text, "block.yaml", registry, context, {})
    run(build_pipeline(spec, registry, context), lambda: False, lambda report: None)
    assert (tmp_path / "out").read_text() == written


def test_the_codec_and_reset_rule_shown_work(registry):
    text = pipeline(decode="{type: plain, field: x}", reset="[{type: falls, field: x}]")
    outputs, rejected = run_pipeline(text, ["1", "2", "two", "1.5"], registry=registry)
    assert [output["y"] for output in outputs] == [1.0, 3.0, 1.5]
    assert [(event.number, event.reason) for event in rejected] == [
        (3, "expected a number on a line of its own")
    ]


def test_the_feature_shown_works(registry):
    text = pipeline(event="{inputs: {x: [{field: x, cyclic: 24}]}}", model="{type: formula, output: {y: x}}")
    outputs, _ = run_pipeline(text, [{"x": 6}, {"x": 12}], registry=registry)
    assert outputs[0]["y"] == pytest.approx([0, 1])
    assert outputs[1]["y"] == pytest.approx([-1, 0])
