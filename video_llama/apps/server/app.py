"""The HTTP application: routes and error responses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import video_llama
from video_llama.apps.server.api_page import api_page
from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.middleware import CLIENT_DISCONNECTED, RequestMiddleware, error_response
from video_llama.apps.server.protocol import ChatRequest
from video_llama.apps.server.replies import ChatCompletion, ErrorBody, Health, ModelInfo, ModelList
from video_llama.apps.server.request import check_model
from video_llama.apps.server.request_parser import RequestParser
from video_llama.apps.server.service import PendingAnswers, Service
from video_llama.apps.server.settings import ServerSettings
from video_llama.apps.server.streaming import ReplyWriter
from video_llama.apps.server.timeline import timeline_completion
from video_llama.chat.assistant import Assistant

ResponseT = TypeVar("ResponseT")

API_DESCRIPTION = "Chat about videos, images and audio through an OpenAI-compatible chat completions API."
COMMON_ERRORS = {401: "The API key is missing or wrong.", 403: "The Host header names another host."}
CHAT_ERRORS = {
    400: "The request or one of its media is invalid.",
    404: "The model does not exist.",
    413: "The request is too large.",
    429: "The queue is full. The Retry-After header gives the time to wait, in seconds.",
    500: "The server failed.",
    503: "The server is shutting down, or receives too many large requests.",
    504: "The time limit was exceeded.",
}
SCHEMA_REFERENCE = "#/components/schemas/{model}"
REQUEST_BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": SCHEMA_REFERENCE.format(model="ChatRequest")}}},
}
EVENTS = "Server-sent events. The data of each is a `chat.completion.chunk` in JSON; that of the last one is `[DONE]`."
EVENT_STREAM_CONTENT = {"text/event-stream": {"schema": {"description": EVENTS}}}


class VideoLlamaApi(FastAPI):
    """FastAPI with the schemas of chat requests, which the server parses itself, in its OpenAPI description.

    Status 422 is removed: invalid requests get status 400 here.
    """

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI description."""
        if self.openapi_schema is None:
            description = super().openapi()
            for methods in description["paths"].values():
                for operation in methods.values():
                    operation["responses"].pop("422", None)
            schemas = description["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            chat_request = ChatRequest.model_json_schema(ref_template=SCHEMA_REFERENCE)
            schemas.update(chat_request.pop("$defs"))
            schemas["ChatRequest"] = chat_request
        return super().openapi()


class ClientDisconnectedError(Exception):
    """The client has disconnected."""


def build_app(assistant: Assistant, settings: ServerSettings, *, is_local: bool = False) -> FastAPI:
    """Create the application for one loaded model. Its lifespan starts and stops the scheduler.

    ``is_local``: the server listens on a loopback address, so that requests must name it in their Host header.
    """
    service = Service(assistant, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = VideoLlamaApi(
        title="Video-LLaMA",
        version=video_llama.__version__,
        description=API_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    _add_errors(app)
    _add_routes(app, service)
    _add_chat(app, service)
    paths = {str(getattr(route, "path", "")) for route in app.routes}
    app.add_middleware(RequestMiddleware, settings=settings, metrics=service.metrics, paths=paths, is_local=is_local)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    started_at = int(time.time())
    model = ModelInfo(id=service.model, created=started_at, owned_by="video-llama", notice=service.notice)

    @app.get("/v1/models", responses=_errors(COMMON_ERRORS))
    async def list_models() -> ModelList:
        """List the served models."""
        return ModelList(data=[model])

    @app.get("/v1/models/{name}", responses=_errors({**COMMON_ERRORS, 404: "The model does not exist."}))
    async def get_model(name: str) -> ModelInfo:
        """Return a model by name."""
        check_model(name, model.id)
        return model

    @app.get("/health")
    async def health() -> Health:
        """Return the status of the server. Requires no API key."""
        # The scheduler removes a finished row shortly after the client has received the end of its answer.
        running = min(service.num_running, service.num_taken)
        return Health(running=running, waiting=service.num_taken - running)

    @app.get(
        "/metrics", response_class=Response, responses={**_errors(COMMON_ERRORS), 200: {"content": {"text/plain": {}}}}
    )
    async def metrics() -> Response:
        """Return the metrics in the Prometheus text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> str:
        """Return the documentation of this API."""
        return api_page(app.openapi())


def _add_chat(app: FastAPI, service: Service) -> None:
    responses = {
        **_errors({**COMMON_ERRORS, **CHAT_ERRORS}),
        200: {"model": ChatCompletion, "content": EVENT_STREAM_CONTENT},
    }

    parser = RequestParser(service.settings)

    @app.post("/v1/chat/completions", responses=responses, openapi_extra={"requestBody": REQUEST_BODY})
    async def chat_completions(http: Request) -> Response:
        """Answer a conversation about media, as one response or as a stream of events."""
        request = await parser.parse(await _body(http), http.headers.get("content-type", ""))
        reply = ReplyWriter(request, service.notice)
        if request.stream:
            answers = await while_connected(http, service.answer(request))
            return EventStream(reply, answers)
        completion = await while_connected(http, _complete(service, request, reply))
        return JSONResponse(completion.model_dump(exclude_none=True))


async def _body(http: Request) -> bytearray:
    """Return the body of a request. Raises ClientDisconnectedError if it ends early."""
    body = bytearray()
    try:
        async for chunk in http.stream():
            body += chunk
    except ClientDisconnect as error:
        raise ClientDisconnectedError from error
    return body


async def _complete(service: Service, request: ChatRequest, reply: ReplyWriter) -> ChatCompletion:
    if request.video_llama.is_timeline:
        timeline, finished = await service.timeline(request)
        return timeline_completion(request, timeline, finished, service.notice)
    return await reply.completion(await service.answer(request))


class EventStream(StreamingResponse):
    """A stream of server-sent events. Closes the answers when the response ends, for whatever reason."""

    def __init__(self, reply: ReplyWriter, answers: PendingAnswers) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(reply.events(answers), media_type="text/event-stream", headers=headers)
        self._answers = answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the events until the last one or until the client disconnects."""
        scope.setdefault("state", {})["is_event_stream"] = True
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.close()


async def while_connected(http: Request, work: Coroutine[Any, Any, ResponseT]) -> ResponseT:
    """Return the result of ``work``. Cancels it and raises ClientDisconnectedError if the client disconnects."""
    task, disconnected = asyncio.create_task(work), asyncio.create_task(_until_disconnected(http))
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnectedError
        return task.result()
    finally:
        task.cancel()
        disconnected.cancel()
        await asyncio.gather(task, disconnected, return_exceptions=True)


async def _until_disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _add_errors(app: FastAPI) -> None:
    """Send every error in the format of the OpenAI API, without a traceback."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error_response(error)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return error_response(ApiError(error.status_code, str(error.detail), headers=dict(error.headers or {})))

    async def disconnected(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_DISCONNECTED)

    async def failed(request: Request, error: Exception) -> Response:
        return error_response(ApiError(500, "The server failed. See the server log for details."))

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientDisconnectedError, disconnected)
    app.add_exception_handler(Exception, failed)


def _errors(descriptions: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route for the OpenAPI description."""
    return {status: {"model": ErrorBody, "description": text} for status, text in descriptions.items()}
