"""The description of the admin API, made of what it is declared with."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from streamrnn import __version__
from streamrnn.daemon import messages as s

if TYPE_CHECKING:
    from streamrnn.daemon.routes import Path

_PROBLEMS = {
    401: "the token is missing or wrong",
    404: "there is no such pipeline",
    405: "this path is asked for in another way",
    409: "it cannot be done; nothing has changed",
    413: "the body is too long",
    415: "the body is of another type",
    422: "the request says something else than it should",
    503: "the pipeline serves nothing now, or not all is well",
    504: "it takes longer than is waited for, and is done all the same",
}


def described(paths: Iterable[Path], api: type) -> dict[str, Any]:
    """An OpenAPI 3.1 document; summaries are the first lines of what `api` says of its methods."""
    schemas: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        summary = (inspect.getdoc(getattr(api, path.ask)) or "").partition("\n")[0]
        found.setdefault(path.path, {})[path.method.lower()] = _operation(path, summary, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "streamrnn admin API", "version": __version__},
        "paths": found,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(path: Path, summary: str, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": path.ask,
        "summary": summary,
        "security": [] if path.is_open else [{"token": []}],
        "parameters": _parameters(path),
        "responses": {"200": {"description": summary, "content": _content(path.answer, schemas)}},
    }
    if path.body is not None:
        content = {"application/json": {"schema": _schema(path.body, schemas)}}
        required = (
            any(field.is_required() for field in path.body.model_fields.values()) or path.body is s.Reset
        )
        operation["requestBody"] = {"required": required, "content": content}
    for status, told in _PROBLEMS.items():
        schema = _schema(s.Health if path.is_open and status == 503 else s.Problem, schemas)
        content = {"application/json": {"schema": schema}}
        operation["responses"][str(status)] = {"description": told, "content": content}
    return operation


def _parameters(path: Path) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path.path)
    ]
    if path.query is not None:
        schema = path.query.model_json_schema()
        for name, each in schema["properties"].items():
            required = name in schema.get("required", ())
            found.append({"name": name, "in": "query", "required": required, "schema": each})
    return found


def _content(answer: type[BaseModel] | str, schemas: dict[str, Any]) -> dict[str, Any]:
    if isinstance(answer, str):
        return {answer.partition(";")[0]: {"schema": {"type": "string"}}}
    return {"application/json": {"schema": _schema(answer, schemas)}}


def _schema(message: type[BaseModel], schemas: dict[str, Any]) -> dict[str, str]:
    """A reference to the schema of a message, which is put among the others with those it refers to."""
    if message.__name__ not in schemas:
        schema = message.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[message.__name__] = schema
    return {"$ref": f"#/components/schemas/{message.__name__}"}
