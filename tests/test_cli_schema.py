import json

import pytest
from click.testing import CliRunner

from streamrnn.cli.list import options
from streamrnn.cli.schema import command
from streamrnn.config.model import NOT_YET, PipelineFile
from streamrnn.config.schema import pipeline_schema
from streamrnn.registry import Registry

SECTIONS = {
    "source": ["source"],
    "sink": ["sink"],
    "codec": ["decode", "encode"],
    "backend": ["model"],
    "reset": ["reset"],
}


@pytest.fixture(scope="module")
def schema():
    """Over what ships with streamrnn, whatever else is installed."""
    return json.loads(json.dumps(pipeline_schema(Registry())))


def test_the_command_prints_it(schema):
    result = CliRunner().invoke(command, ["--format", "json"])
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert printed["properties"].keys() == schema["properties"].keys()
    assert printed["$defs"].keys() >= schema["$defs"].keys()


def walk(value, path=()):
    """Every mapping and list in a schema, with its path."""
    yield path, value
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield from walk(child, (*path, key))


def resolved(schema, ref):
    assert ref.startswith("#/$defs/"), ref
    return schema["$defs"][ref.removeprefix("#/$defs/")]


def alternatives(schema, section):
    """The definitions of a section by the type that names them."""
    place = schema["properties"][section]
    refs = [each["$ref"] for each in (place["items"] if section == "reset" else place)["oneOf"]]
    definitions = [resolved(schema, ref) for ref in refs]
    return {each["properties"]["type"]["const"]: each for each in definitions}


def test_every_reference_leads_somewhere_and_every_definition_is_used(schema):
    refs = {value for path, value in walk(schema) if path and path[-1] == "$ref"}
    assert refs == {f"#/$defs/{name}" for name in schema["$defs"]}
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_sections(schema):
    assert list(schema["properties"]) == list(PipelineFile.model_fields)
    assert not set(schema["properties"]) & set(NOT_YET)
    assert schema["additionalProperties"] is False
    assert all(each["description"] for each in schema["properties"].values())


@pytest.mark.parametrize("kind", SECTIONS)
def test_components(schema, kind):
    components = {component.name: component for component, _ in Registry().components(kind)}
    for section in SECTIONS[kind]:
        found = alternatives(schema, section)
        assert found.keys() == components.keys()
        for name, definition in found.items():
            told = options(components[name])
            shared = {"model": {"context"}, "encode": {"include", "fields"}}.get(section, set())
            assert definition["properties"].keys() == {"type", *told, *shared}
            assert set(definition["required"]) == {"type", *(o for o in told if told[o]["required"])}
            assert definition["additionalProperties"] is False
            for option in told:
                shown = definition["properties"][option]
                assert shown["description"] == told[option]["description"]
                assert shown.get("default") == (told[option]["default"] or shown.get("default"))


def test_features(schema):
    inputs = schema["$defs"]["Event"]["properties"]["inputs"]["additionalProperties"]
    found = [resolved(schema, each["$ref"]) for each in resolved(schema, inputs["items"]["$ref"])["anyOf"]]
    features = {component.name: component for component, _ in Registry().components("feature")}
    required = [each["required"] for each in found]
    assert required == [[], *([name] for name in features), ["elapsed"]]
    for each, component in zip(found[1:-1], features.values(), strict=True):
        ranged = {"range"} if component.config.takes != "values" else set()
        common = {"field", "fields", "missing", "then"} | ranged
        assert each["properties"].keys() == {*common, *options(component)}
    assert found[-1]["properties"].keys() == {"elapsed", "first", "across_reset", "then"}
    steps = [resolved(schema, each["$ref"]) for each in schema["$defs"]["Step"]["anyOf"][1:]]
    assert [each["required"] for each in steps] == [["log1p"], ["scale"], ["standardize"]]
    assert schema["$defs"]["Step"]["anyOf"][0]["anyOf"][0] == {"enum": ["log1p"]}


def test_a_variable_may_stand_for_a_number(schema):
    number, variable = schema["$defs"]["Limits"]["properties"]["max_keys"]["anyOf"]
    assert number == {"minimum": 1, "type": "integer"}
    assert variable == {"type": "string", "pattern": r"^\$\{.+\}$"}


def test_nothing_is_left_of_the_generator(schema):
    titles = [path for path, _ in walk(schema) if path and path[-1] in ("title", "discriminator")]
    assert titles == [("title",)]
