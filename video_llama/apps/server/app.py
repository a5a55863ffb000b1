"""The HTTP face: OpenAI's chat completions over a ``Service``, models, health, metrics, and the API's description."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

import video_llama
from video_llama.apps.server.api_page import page
from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.metrics import Metrics
from video_llama.apps.server.protocol import ChatCompletion, ChatRequest, ErrorBody, Health, Model, ModelList
from video_llama.apps.server.service import PendingAnswers, Service
from video_llama.apps.server.settings import ServerSettings
from video_llama.apps.server.streaming import ReplyWriter
from video_llama.chat.assistant import Assistant

Result = TypeVar("Result")

DESCRIPTION = "Ask videos, sounds and images, in the words of OpenAI's chat completions."
EVERYWHERE = {401: "The key is missing or wrong."}
CHAT_ERRORS = {
    400: "The request or one of its media cannot be used.",
    404: "No such model.",
    413: "The request is too large.",
    429: "Every place is taken; Retry-After says when to come back.",
    500: "The server failed.",
    503: "The server is shutting down.",
    504: "No answer within the deadline.",
}
STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


class Api(FastAPI):
    """FastAPI, whose own description promises 422 for what is answered here with 400 in OpenAI's shape."""

    def openapi(self) -> dict[str, Any]:
        """The API's description."""
        if self.openapi_schema is None:
            description = super().openapi()
            for methods in description["paths"].values():
                for operation in methods.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                description["components"]["schemas"].pop(name, None)
        return super().openapi()


class ClientGoneError(Exception):
    """Nobody waits for the response any more."""


def create_app(assistant: Assistant, settings: ServerSettings) -> FastAPI:
    """The application for one loaded model; its thread starts and ends with the application's lifespan."""
    service = Service(assistant, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = Api(
        title="Video-LLaMA",
        version=video_llama.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    _add_errors(app)
    _add_routes(app, service)
    _add_chat(app, service)
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    paths = {str(getattr(route, "path", "")) for route in app.routes}
    limits: dict[str, Any] = {"key": key, "max_body_bytes": settings.max_body_bytes}
    app.add_middleware(RequestMiddleware, **limits, metrics=service.metrics, paths=paths)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    started_at = int(time.time())
    model = Model(id=service.model, created=started_at, owned_by="video-llama", notice=service.notice)

    @app.get("/v1/models", responses=_errors(EVERYWHERE))
    async def list_models() -> ModelList:
        """The model that this server has."""
        return ModelList(data=[model])

    @app.get("/v1/models/{name}", responses=_errors({**EVERYWHERE, 404: "No such model."}))
    async def get_model(name: str) -> Model:
        """The model of this name."""
        if name != model.id:
            raise ApiError(404, f"There is no model {name!r} here.", code="model_not_found", param="model")
        return model

    @app.get("/health")
    async def health() -> Health:
        """Whether the server answers; needs no key."""
        # The model's thread lets an answer's place go a moment after its client has been told the end.
        running = min(service.num_running, service.num_taken)
        return Health(running=running, waiting=service.num_taken - running)

    @app.get(
        "/metrics", response_class=Response, responses={**_errors(EVERYWHERE), 200: {"content": {"text/plain": {}}}}
    )
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> str:
        """This API, readable without a script or a network."""
        return page(app.openapi())


def _add_chat(app: FastAPI, service: Service) -> None:
    responses = {**_errors({**EVERYWHERE, **CHAT_ERRORS}), 200: {"model": ChatCompletion, "content": STREAM}}

    @app.post("/v1/chat/completions", responses=responses)
    async def chat_completions(request: ChatRequest, http: Request) -> Response:
        """Answer a conversation about media, whole or as a stream of events."""
        reply = ReplyWriter(request, service.notice)
        if request.stream:
            answers = await while_connected(http, service.answer(request))
            return EventStream(reply, answers)
        completion = await while_connected(http, _complete(service, request, reply))
        return JSONResponse(completion.model_dump(exclude_none=True))


async def _complete(service: Service, request: ChatRequest, reply: ReplyWriter) -> ChatCompletion:
    return await reply.whole(await service.answer(request))


class EventStream(StreamingResponse):
    """Server-sent events; the answers' places are freed however the response ends, even before it began."""

    def __init__(self, reply: ReplyWriter, answers: PendingAnswers) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(reply.events(answers), media_type="text/event-stream", headers=headers)
        self._answers = answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the events until they end or the client goes away."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.close()


async def while_connected(http: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is cancelled when the client goes away: then ClientGoneError."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_until_gone(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _until_gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _add_errors(app: FastAPI) -> None:
    """Every error leaves in OpenAI's shape, and none with a trace."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error_response(error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(_first_problem(error))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return error_response(ApiError(error.status_code, str(error.detail), headers=dict(error.headers or {})))

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    async def failed(request: Request, error: Exception) -> Response:
        return error_response(ApiError(500, "The server failed. Its log says why."))

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientGoneError, gone)
    app.add_exception_handler(Exception, failed)


def _first_problem(error: RequestValidationError) -> ApiError:
    """The first of pydantic's complaints, with the place in the request; what was sent is not repeated."""
    problem = error.errors()[0]
    place = ".".join(str(step) for step in problem["loc"][1:])
    return ApiError(400, f"{place or 'The request'}: {problem['msg']}.", param=place or None)


def _errors(descriptions: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, for the API's description."""
    return {status: {"model": ErrorBody, "description": text} for status, text in descriptions.items()}


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/health",)
"""What needs no key: whoever starts the server must be able to ask whether it lives."""

CLIENT_GONE = 499
"""The status, for our counts only, of a request whose client went away (nginx's word for it)."""


class RequestMiddleware:
    """ASGI middleware: refuses without the key, and bodies that are too large; counts requests by path and status."""

    def __init__(self, app: App, *, key: str | None, max_body_bytes: int, metrics: Metrics, paths: set[str]) -> None:
        self._app, self._max_body_bytes, self._metrics, self._paths = app, max_body_bytes, metrics, paths
        self._expected = None if key is None else f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = CLIENT_GONE

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                return await error_response(refusal)(scope, receive, counted)
            await self._app(scope, self._limited(receive), counted)
        finally:
            # Paths that do not exist are a client's to invent, and would each be a counter.
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = dict(scope["headers"])
        if self._expected is not None and scope["path"] not in OPEN_PATHS:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                message = "The key is missing or wrong. Send it as: Authorization: Bearer KEY"
                return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            return ApiError(413, self._too_large())
        return None

    def _limited(self, receive: Receive) -> Receive:
        """``receive`` that stops at the limit, whatever the request said of its length."""
        num_bytes = 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"The request is larger than {self._max_body_bytes:,} bytes. Send a smaller one."


def error_response(error: ApiError) -> JSONResponse:
    """An error as a response."""
    return JSONResponse(error.body(), error.status, headers=error.headers)
