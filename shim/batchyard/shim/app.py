"""The ASGI application: every route, the health checks, and the frame around each request."""

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from importlib import resources
from typing import Any

from grpc_health.v1 import health_pb2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from batchyard.common.calls import Caller, CallError
from batchyard.common.http.middleware import RequestMiddleware
from batchyard.common.http.request_log import RequestLog
from batchyard.common.jsonmap import JsonError
from batchyard.common.metrics import Metrics
from batchyard.shim.errors import RequestError, from_call
from batchyard.shim.files import Files
from batchyard.shim.inbound import Bounds
from batchyard.shim.transcoding import SERVICE, Binding, Transcoder

READINESS_SECONDS = 2.0

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]


def create_app(caller: Caller, *, request_log: RequestLog | None = None, **seconds: float) -> Starlette:
    """The shim over `caller`, which its opener closes (`async with connect(target) as caller`).

    `seconds` are fields of `Bounds`.
    """
    bounds = Bounds(**seconds)
    bindings = [*Transcoder(caller, bounds).bindings(), *Files(caller, bounds).bindings(), *public(caller)]
    handlers = dict.fromkeys((RequestError, CallError, JsonError, HTTPException, TimeoutError), _answer)
    frame = Middleware(RequestMiddleware, request_log=request_log or RequestLog(Metrics()))
    app = Starlette(routes=_routes(bindings), exception_handlers=handlers, middleware=[frame])
    app.router.redirect_slashes = False
    return app


def public(caller: Caller) -> Iterator[Binding]:
    """What needs no key: the API's description, and the probes, of which only readiness asks the service."""
    description = resources.files("batchyard.shim").joinpath("openapi.json").read_bytes()

    async def openapi(request: Request) -> Response:
        return Response(description, media_type="application/json")

    async def alive(request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(request: Request) -> Response:
        check = health_pb2.HealthCheckRequest(service=SERVICE.full_name)
        metadata = [("x-request-id", request.state.request_id)]
        try:
            answer = await caller.unary(_HEALTH, check, metadata=metadata, deadline=READINESS_SECONDS)
        except CallError:
            return JSONResponse({"status": "unreachable"}, 503)
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        return JSONResponse({"status": "ready" if serving else "not_serving"}, 200 if serving else 503)

    yield Binding("GET", "/openapi.json", "-", openapi)
    for verb in ("GET", "HEAD"):
        yield Binding(verb, "/health/liveliness", "-", alive)
        yield Binding(verb, "/health/liveness", "-", alive)
        yield Binding(verb, "/health/readiness", "Health.Check", ready)


@dataclass(frozen=True)
class Resource:
    """The verbs of one path. Unknown: a provider that is a word which begins other paths, and an encoded slash."""

    bindings: Mapping[str, Binding]
    reserved: Set[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path_params"].get("provider") in self.reserved or b"%2f" in scope["raw_path"].lower():
            raise HTTPException(404)
        if scope["method"] not in self.bindings:
            raise HTTPException(405, headers={"allow": ", ".join(sorted(self.bindings))})
        response = await self.bindings[scope["method"]].handle(Request(scope, receive, send))
        await response(scope, receive, send)


class _Route(Route):
    """A route that looks no closer at paths of another length, or without its own longest part between variables."""

    def __init__(self, path: str, endpoint: Resource) -> None:
        super().__init__(path, endpoint)
        self._slashes = path.count("/")
        self._fixed = max(re.split("{.+?}", path), key=len)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        alike = self._fixed in scope["path"] and scope["path"].count("/") == self._slashes
        return super().matches(scope) if alike else (Match.NONE, {})


def _routes(bindings: Iterable[Binding]) -> list[Route]:
    paths: dict[str, dict[str, Binding]] = {}
    for binding in bindings:
        paths.setdefault(binding.path, {})[binding.verb] = binding
    reserved = {path.split("/")[1] for path in paths if not path.startswith("/{")}
    return [_Route(path, Resource(paths[path], reserved)) for path in sorted(paths, key=_literals_first)]


def _literals_first(path: str) -> list[tuple[bool, str]]:
    return [(segment.startswith("{"), segment) for segment in path.split("/")]


async def _answer(request: Request, error: Any) -> Any:
    match error:
        case CallError():
            error = from_call(error)
            if error.error["param"] == "model":
                error.error["param"] = getattr(request.state, "model_param", "model")
        case JsonError():
            error = RequestError(400, error.message, param=error.param, code=error.code)
        case TimeoutError():  # only the reading of a body lets one out
            error = RequestError(408, "The request's body took too long.")
        case HTTPException(status_code=status, headers=headers):
            wrong = "method" if status == 405 else "URL"
            error = RequestError(status, f"Invalid {wrong} ({request.method} {request.url.path})")
            error.headers.update(headers or {})
    return error.response()
