"""The paths of the admin API: each declared once, for the router, the access to it and its description."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from streamrnn.daemon import messages as s
from streamrnn.daemon.access import Access
from streamrnn.daemon.api import Api, UnknownError
from streamrnn.daemon.hosted import NotServingError, RefusedError
from streamrnn.daemon.metrics import CONTENT_TYPE
from streamrnn.daemon.openapi import described
from streamrnn.errors import StreamrnnError

if TYPE_CHECKING:
    from starlette.exceptions import HTTPException

MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Path:
    """One path: what answers it (a method of `Api`), and what it is given and gives.

    `is_open` says that it needs no token: it tells nothing but whether all is well.
    """

    method: str
    path: str
    ask: str
    answer: type[BaseModel] | str
    query: type[s.Message] | None = None
    body: type[s.Message] | None = None
    is_open: bool = False


PATHS = (
    Path("GET", "/livez", "livez", s.Health, is_open=True),
    Path("GET", "/readyz", "readyz", s.Health, is_open=True),
    Path("GET", "/metrics", "metrics", CONTENT_TYPE),
    Path("GET", "/pipelines", "pipelines", s.Statuses),
    Path("POST", "/reload", "reload_all", s.Reloaded, body=s.Reload),
    Path("GET", "/pipelines/{name}", "pipeline", s.Status),
    Path("GET", "/pipelines/{name}/state", "state", s.KeyStates, query=s.KeyQuery),
    Path("POST", "/pipelines/{name}/reset", "reset", s.ResetDone, body=s.Reset),
    Path("POST", "/pipelines/{name}/checkpoint", "checkpoint", s.Committed, body=s.Nothing),
    Path("POST", "/pipelines/{name}/reload", "reload", s.Reloaded, body=s.Reload),
    Path("GET", "/pipelines/{name}/dead-letters", "dead_letters", s.Letters, query=s.LettersQuery),
    Path("GET", "/pipelines/{name}/tap", "tap", "application/x-ndjson", query=s.TapQuery),
)
DOCUMENT = "/openapi.json"


class _WrongError(Exception):
    """A request that says something else than it should; `status` is the answer's."""

    def __init__(self, text: str, status: int = 422) -> None:
        super().__init__(text)
        self.status = status


def application(api: Api, token: str | None) -> Access:
    """The application to be served: everything but the open paths behind the token, if there is one."""
    routes = [Route(path.path, _endpoint(api, path), methods=[path.method]) for path in PATHS]
    document = json.dumps(described(PATHS, Api), sort_keys=True).encode()

    async def openapi(request: Request) -> Response:
        return Response(document, media_type="application/json")

    routes.append(Route(DOCUMENT, openapi, methods=["GET"]))
    app = Starlette(routes=routes, exception_handlers={404: _http, 405: _http, Exception: _unexpected})
    return Access(app, token, [path.path for path in PATHS if path.is_open])


def _endpoint(api: Api, path: Path) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            given: dict[str, Any] = dict(request.path_params)
            query = _query(request, path)
            if query is not None:
                given["query"] = query
            if path.body is not None:
                given["body"] = await _body(request, path.body)
            return _response(await getattr(api, path.ask)(**given), path)
        except _WrongError as error:
            return _problem(error.status, str(error))
        except UnknownError as error:
            return _problem(404, str(error))
        except NotServingError as error:
            return _problem(503, str(error))
        except (RefusedError, StreamrnnError) as error:
            return _problem(409, str(error))
        except TimeoutError:
            return _problem(504, "it takes longer than is waited for; what was asked is done all the same")

    endpoint.__name__ = path.ask
    return endpoint


def _response(found: Any, path: Path) -> Response:
    if isinstance(path.answer, str):
        if isinstance(found, bytes):
            return Response(found, media_type=path.answer)
        return StreamingResponse(found, media_type=path.answer)
    status = 503 if isinstance(found, s.Health) and not found.ok else 200
    return Response(found.model_dump_json(), status, media_type="application/json")


def _query(request: Request, path: Path) -> s.Message | None:
    """What stands behind `?`; a name that is not known, or stands twice, is a mistake."""
    pairs = request.query_params.multi_items()
    if len({name for name, _ in pairs}) != len(pairs):
        raise _WrongError("a query parameter stands twice")
    if path.query is None:
        if pairs:
            raise _WrongError(f"expected no query parameters, found {pairs[0][0]}")
        return None
    return _validated(path.query, dict(pairs))


async def _body(request: Request, message: type[s.Message]) -> s.Message:
    data = bytearray()
    try:
        async for piece in request.stream():
            data += piece
            if len(data) > MOST_BYTES:
                raise _WrongError(f"expected a body of at most {MOST_BYTES} bytes", 413)
    except ClientDisconnect as error:
        raise _WrongError("the request broke off", 400) from error
    if not data.strip():
        return _validated(message, {})
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _WrongError("expected a body of type application/json", 415)
    try:
        return message.model_validate_json(bytes(data))
    except ValidationError as error:
        raise _WrongError(_told(error)) from error


def _validated(message: type[s.Message], given: dict[str, Any]) -> s.Message:
    try:
        return message.model_validate(given)
    except ValidationError as error:
        raise _WrongError(_told(error)) from error


def _told(error: ValidationError) -> str:
    """All mistakes, without what was found: it may be secret."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in found)


def _problem(status: int, text: str) -> JSONResponse:
    return JSONResponse(s.Problem(error=text).model_dump(), status)


async def _http(request: Request, error: Exception) -> Response:
    found: HTTPException = error  # type: ignore[assignment]
    response = _problem(found.status_code, f"{request.method} {request.url.path}: {found.detail}")
    response.headers.update(found.headers or {})
    return response


async def _unexpected(request: Request, error: Exception) -> Response:
    return _problem(500, "an error of ours; the log has it")
