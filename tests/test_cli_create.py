from itertools import product

import pytest
from click.testing import CliRunner

from streamrnn.cli import echo, list, test
from streamrnn.cli.create import command
from streamrnn.config.load import load_pipeline
from streamrnn.context import Context
from streamrnn.registry import Registry

EXPRESSIONS = [
    "/".join(names) for names in product(["stdin", "file"], ["formula", "numpy"], ["stdout", "file"])
]


def run(*arguments):
    result = CliRunner().invoke(command, arguments)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_is_a_pipeline_that_passes_its_test(tmp_path, expression):
    code, out, err = run(expression)
    assert (code, err) == (0, "")
    assert out.startswith("# yaml-language-server: $schema=streamrnn.schema.json\n")
    file = tmp_path / "p.yaml"
    file.write_text(out)
    checked = CliRunner().invoke(test.command, [str(file)])
    assert checked.stdout.endswith("1 passed, 0 failed\n"), checked.stdout
    spec = load_pipeline(out, "p.yaml", Registry(), Context(), {})
    assert [c.component.name for c in (spec.source, spec.model, spec.sink)] == expression.split("/")
    assert len(spec.file.tests[0].output or []) == 3
    assert all("y" in record for record in spec.file.tests[0].output or [])


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_explains_every_option(expression):
    out = run(expression)[1]
    flat = " ".join(out.replace("#", " ").split())
    registry = Registry()
    for kind, name in zip(("source", "backend", "sink"), expression.split("/"), strict=True):
        component = registry.find(kind, name)
        for option, told in list.options(component).items():
            assert f"\n  {option}: " in out or f"\n  # {option}: {echo.to_flow(told['default'])}\n" in out
            assert " ".join(told["description"].replace("#", " ").split()) in flat
    assert all(f"type: {name}" in out for name in registry.names("reset"))
    assert max(map(len, out.splitlines())) <= 120


def test_default():
    assert run() == run("stdin/formula/stdout")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (
            "stdin/formla/stdout",
            "installed: auto, formula, numpy; did you mean 'formula'?",
        ),
        ("stdn/formula/stdout", "did you mean 'stdin'?"),
        ("stdin/formula/stdot", "did you mean 'stdout'?"),
        ("formula", "expected source/model/sink such as stdin/formula/stdout, found 'formula'"),
    ],
)
def test_unknown_names(expression, message):
    code, out, err = run(expression)
    assert (code, out) == (2, "")
    assert message in err
