"""An OpenAI-compatible API: completions, chat as a thin wrapper around them, models, health and metrics.

Differences, all on purpose: max_tokens is by default what the settings say, because a tweet ends by itself; a space at
a prompt's end is dropped, because GPT-2's words begin with theirs; penalties other than repetition_penalty, tools and
pictures are refused with a reason. The model was taught to write tweets, not to answer: a chat's last user message is
what it goes on with.
"""

import secrets
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Match

from config.schema import GenerateConfig, ServeConfig, UserError
from server.engine import Busy, Engine
from server.errors import ApiError, refused
from server.metrics import Metrics
from server.middleware import Guard
from server.responses import ChatJob, Events, Job, finished
from server.schemas import (
    MODEL_NAME,
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    ErrorAnswer,
    Health,
    ModelCard,
    ModelList,
    SamplingRequest,
)

COLDEST = 0.01  # below, the scores would overflow and the likeliest token wins anyway
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"]


class Server:
    """What the routes do.

    Args:
        engine: writes the texts.
        settings: limits.
        defaults: how texts are drawn where a client does not say.
        created: when the model was made, seconds since 1970.
    """

    def __init__(self, engine: Engine, settings: ServeConfig, defaults: GenerateConfig, created: int) -> None:
        self.engine, self.settings, self.defaults = engine, settings, defaults
        self.metrics = Metrics()
        self.card = {"id": MODEL_NAME, "object": "model", "created": created, "owned_by": "you"}

    async def health(self) -> Response:
        """The server is up."""
        return JSONResponse({"status": "ok"})

    async def count(self) -> Response:
        """Counters for Prometheus."""
        return PlainTextResponse(self.metrics.text(self.engine.stats()), media_type="text/plain; version=0.0.4")

    async def models(self) -> Response:
        """The models that can be asked."""
        return JSONResponse({"object": "list", "data": [self.card]})

    async def model(self, model: str) -> Response:
        """One of them."""
        self.check_model(model)
        return JSONResponse(self.card)

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        """Go on with a prompt."""
        prompt: Any = body.prompt
        single = isinstance(prompt, str) or isinstance(prompt[0], int)
        scored = body.logprobs is not None and bool(body.echo)
        texts = self.submit([prompt] if single else prompt, body, logprobs=body.logprobs, score_prompt=scored)
        job = Job(texts, self.prompt_tokens(texts, body), echo=bool(body.echo), logprobs=body.logprobs)
        return await self.answer(job, body, request)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """Go on with what the user said last."""
        if body.max_completion_tokens is not None:
            body.max_tokens = body.max_completion_tokens
        users = [message for message in body.messages if message.role == "user"] or body.messages
        content = users[-1].content or ""
        prompt = content if isinstance(content, str) else "".join(part.text for part in content)
        texts = self.submit([prompt], body)
        return await self.answer(ChatJob(texts, self.prompt_tokens(texts, body)), body, request)

    def submit(self, prompts: list[Any], body: SamplingRequest, **asked: Any) -> list[Any]:
        """Hand all texts of a request to the engine, or none."""
        self.check_model(body.model)
        sampling = self.sampling(body)
        seed = secrets.randbelow(2**31) if body.seed is None else body.seed
        stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
        texts = []
        try:
            for prompt in prompts:
                for number in range(body.n or 1):
                    texts.append(self.engine.submit(prompt, sampling, seed=seed + number, stop=stop, **asked))
        except (UserError, Busy) as error:
            for text in texts:
                text.cancel()
            if isinstance(error, Busy):
                raise ApiError(429, str(error), code="queue_full", headers={"Retry-After": "1"}) from None
            raise ApiError(400, str(error), param="prompt", code="context_length_exceeded") from None
        return texts

    def sampling(self, body: SamplingRequest) -> GenerateConfig:
        """How to draw: what the client says, within bounds, else the defaults."""
        said = {name: getattr(body, name) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
        said = {name: value for name, value in said.items() if value is not None}
        if said.get("temperature", 1.0) < COLDEST:
            said["temperature"] = 0.0
        if "top_p" in said:
            said["top_p"] = max(said["top_p"], 1e-6)
        if "top_k" in said:
            said["top_k"] = max(said["top_k"], 0)
        return replace(self.defaults, **said, max_new_tokens=body.max_tokens or self.defaults.max_new_tokens)

    def prompt_tokens(self, texts: list[Any], body: SamplingRequest) -> int:
        """Tokens of the prompts, each counted once, with the end mark that stands before it."""
        return sum(1 + len(text.draft.ids) for text in texts[:: body.n or 1])

    def check_model(self, model: str) -> None:
        """Refuse the names of other models."""
        if model != MODEL_NAME:
            raise ApiError(404, f"there is no model {model!r} here, only {MODEL_NAME!r}", param="model")

    async def answer(self, job: Job, body: SamplingRequest, request: Request) -> Response:
        """The job's answer, whole or as a stream."""
        seconds = self.settings.timeout_seconds
        if body.stream:
            job.usage = bool(body.stream_options and body.stream_options.include_usage)
            return Events(job, seconds)
        if await finished(job, request.receive, seconds):
            return JSONResponse(job.whole())
        return Response(status_code=499)  # as nginx calls it; the client has left and never sees it


def create_api(engine: Engine, settings: ServeConfig, defaults: GenerateConfig, *, created: int = 0) -> FastAPI:
    """The application; the caller starts and ends the engine.

    Args:
        engine: writes the texts.
        settings: limits, and the key.
        defaults: how texts are drawn where a client does not say.
        created: when the model was made, seconds since 1970.
    """
    server = Server(engine, settings, defaults, created)
    app = FastAPI(title="elon-transformer", version="1", description=__doc__, docs_url=None, redoc_url=None)
    app.state.server = server
    stream: dict[int | str, Any] = {200: {"content": {"text/event-stream": {}}}}
    text: dict[int | str, Any] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
    keyed = (401,) if settings.api_key else ()
    host = (403,) if settings.local else ()
    asked = errors(400, 404, 408, 413, 429, 500, 503, *host, *keyed)
    add = app.add_api_route
    add("/health", server.health, response_model=Health, responses=errors(*host))
    add("/metrics", server.count, response_class=PlainTextResponse, responses={**text, **errors(*host, *keyed)})
    add("/v1/models", server.models, response_model=ModelList, responses=errors(*host, *keyed))
    add("/v1/models/{model}", server.model, response_model=ModelCard, responses=errors(404, *host, *keyed))
    for path, route, kind in (
        ("/v1/completions", server.completions, Completion),
        ("/v1/chat/completions", server.chat, ChatCompletion),
    ):
        add(path, route, methods=["POST"], response_model=kind, responses={**stream, **asked})
    add_errors(app)
    app.add_middleware(Guard, settings=settings, metrics=server.metrics)
    described = app.openapi()
    app.openapi_schema = honest(described, engine, keyed=bool(keyed))
    return app


def errors(*statuses: int) -> dict[int | str, Any]:
    """The error answers of a route, for its description."""
    return {status: {"model": ErrorAnswer} for status in statuses}


def add_errors(app: FastAPI) -> None:
    """Have everything that goes wrong told as OpenAI does; unknown paths under /v1 are not the playground's."""

    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return refused(error.errors()).response()

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return ApiError(error.status_code, str(error.detail), headers=error.headers).response()

    async def crash(request: Request, error: Exception) -> Response:
        return ApiError(500, "something broke here; the server's log says what").response()

    async def unknown(request: Request) -> Response:
        known = [route for route in app.routes if route.matches(request.scope)[0] == Match.PARTIAL]
        if not known:
            raise ApiError(404, f"there is nothing at {request.url.path}: see /openapi.json")
        allowed = ", ".join(sorted(set().union(*(getattr(route, "methods", None) or () for route in known))))
        raise ApiError(405, f"{request.url.path} takes {allowed} only", headers={"Allow": allowed})

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, crash)
    for path in ("/v1", "/v1/{rest:path}", "/health", "/metrics", "/openapi.json"):
        app.add_route(path, unknown, methods=METHODS, include_in_schema=False)


def honest(described: dict[str, Any], engine: Engine, *, keyed: bool) -> dict[str, Any]:
    """The OpenAPI description, as this server really is: its model, its context, its errors, its key."""
    longest = engine.bundle.model.config.block_size - 2
    for operations in described["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    schemas = described["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for name in ("CompletionRequest", "ChatRequest"):
        schemas[name]["properties"]["model"]["enum"] = [MODEL_NAME]
    _, _, ids, lists = schemas["CompletionRequest"]["properties"]["prompt"]["anyOf"]
    ids["maxItems"] = lists["items"]["maxItems"] = longest
    if keyed:
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in described["paths"].items():
            if path != "/health":
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
    return described
