"""The OpenAI-compatible API: completions, chat, models, health and metrics.

It differs from OpenAI's on purpose. max_tokens is by default that of the settings, because a tweet ends by itself. A
space at a prompt's end is dropped, because GPT-2's words begin with their space; not where the prompt is scored (echo
and logprobs). The first token of a prompt has a log-probability, because the model reads an end mark before it.
Penalties other than repetition_penalty, tools and pictures are refused with a reason. The model was trained to write
tweets, not to answer: a chat continues the last user message.
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
from generate.drafts import PromptTooLong
from server.engine import Engine, QueueFull, TextRequest
from server.middleware import BrowserOrigins, Metrics, PlainRequests, RequestChecks
from server.responses import ChatReply, EventStream, TextCompletion, wait_until_done
from server.schemas import (
    MAX_TEXTS,
    MODEL_NAME,
    ApiError,
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    ErrorContent,
    Health,
    ModelInfo,
    ModelList,
    SamplingRequest,
    validation_error,
)

MIN_TEMPERATURE = 0.01  # below it the logits would overflow, and the likeliest token wins anyway
PAIRS: list[dict[str, dict[str, Any]]] = [  # of values that are refused together: a stream of the best of several, ...
    {"stream": {"const": True}, "best_of": {"type": "integer", "minimum": 2}},
    *(  # ... and more texts than are written
        {"n": {"type": "integer", "minimum": most + 1}, "best_of": {"type": "integer", "maximum": most}}
        for most in range(1, MAX_TEXTS)
    ),
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"]


class Routes:
    """The handlers of the API's routes; for the arguments see `create_api`."""

    def __init__(self, engine: Engine, settings: ServeConfig, defaults: GenerateConfig, created: int) -> None:
        self.engine, self.settings, self.defaults = engine, settings, defaults
        self.metrics = Metrics()
        self.info = {"id": MODEL_NAME, "object": "model", "created": created, "owned_by": "you"}

    async def health(self) -> Response:
        """Whether the server runs."""
        return JSONResponse({"status": "ok"})

    async def prometheus(self) -> Response:
        """Counters for Prometheus."""
        return PlainTextResponse(self.metrics.text(self.engine.stats()), media_type="text/plain; version=0.0.4")

    async def models(self) -> Response:
        """The list of models; there is one."""
        return JSONResponse({"object": "list", "data": [self.info]})

    async def model(self, model: str) -> Response:
        """The model of this name."""
        check_model(model)
        return JSONResponse(self.info)

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        """Continue a prompt."""
        prompt: Any = body.prompt
        single = isinstance(prompt, str) or isinstance(prompt[0], int)
        n = body.n or 1
        best_of = n if body.best_of is None else body.best_of
        if best_of < n:
            raise ApiError(400, f"best_of is {best_of}, but n is {n}: best_of texts are written", param="best_of")
        if (body.best_of or 1) > 1 and body.stream:
            raise ApiError(400, "best_of can't be streamed: the best text is known only at the end", param="best_of")
        options = {"logprobs": body.logprobs, "echo": bool(body.echo), "write": body.max_tokens != 0}
        texts = self.submit([prompt] if single else prompt, body, "prompt", best_of=best_of, **options)
        completion = TextCompletion(texts, n, best_of=best_of, logprobs=body.logprobs is not None)
        return await self.respond(completion, body, request)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """Continue the last user message."""
        if body.max_completion_tokens is not None:
            body.max_tokens = body.max_completion_tokens
        users = [message for message in body.messages if message.role == "user"] or body.messages
        content = users[-1].content or ""
        prompt = content if isinstance(content, str) else "".join(part.text for part in content)
        n = body.n or 1
        return await self.respond(ChatReply(self.submit([prompt], body, "messages", best_of=n), n, n), body, request)

    def submit(
        self, prompts: list[Any], body: SamplingRequest, param: str, *, best_of: int, **options: Any
    ) -> list[TextRequest]:
        """Submit all texts of a request to the engine, `best_of` for each prompt, or none.

        `options` are those of `Engine.submit`. If there are more than n for each prompt, they are candidates of one
        seed.

        Raises:
            ApiError: a prompt does not fit or is no text (`param` is the field that holds the prompts), or the queue
                is full.
        """
        check_model(body.model)
        choose = best_of > (body.n or 1)
        sampling = replace(self.sampling(body), best_of=best_of if choose else 1)
        seed = secrets.randbelow(2**31) if body.seed is None else body.seed
        stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
        texts: list[TextRequest] = []
        try:
            for prompt in prompts:
                for number in range(best_of):
                    which: dict[str, Any] = {"seed": seed, "candidate": number} if choose else {"seed": seed + number}
                    texts.append(self.engine.submit(prompt, sampling, stop=stop, **which, **options))
        except (UserError, QueueFull) as error:
            for text in texts:
                text.cancel()
            if isinstance(error, QueueFull):
                raise ApiError(429, str(error), code="queue_full", headers={"Retry-After": "1"}) from None
            message, code = str(error), None
            if isinstance(error, PromptTooLong):  # LiteLLM and others look for OpenAI's words
                most = self.engine.bundle.model.config.block_size
                message, code = (
                    f"{error} (this model's maximum context length is {most} tokens)",
                    "context_length_exceeded",
                )
            raise ApiError(400, message, param=param, code=code) from None
        return texts

    def sampling(self, body: SamplingRequest) -> GenerateConfig:
        """The sampling settings: the client's, within bounds, and the defaults for the rest."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        given = {name: value for name in names if (value := getattr(body, name)) is not None}
        if given.get("temperature", 1.0) < MIN_TEMPERATURE:
            given["temperature"] = 0.0
        if "top_p" in given:
            given["top_p"] = max(given["top_p"], 1e-6)
        if "top_k" in given:
            given["top_k"] = max(given["top_k"], 0)
        return replace(self.defaults, **given, max_new_tokens=body.max_tokens or self.defaults.max_new_tokens)

    async def respond(self, completion: TextCompletion, body: SamplingRequest, request: Request) -> Response:
        """The HTTP response: a stream, or the whole completion once it is done."""
        seconds = self.settings.timeout_seconds
        if body.stream:
            completion.include_usage = bool(body.stream_options and body.stream_options.include_usage)
            return EventStream(completion, seconds)
        if await wait_until_done(completion, request.receive, seconds):
            return JSONResponse(completion.whole())
        return Response(status_code=499)  # nginx's code for a client that has left, which never sees it


def check_model(name: str) -> None:
    """Refuse the names of other models."""
    if name != MODEL_NAME:
        raise ApiError(404, f"there is no model {name!r} here, only {MODEL_NAME!r}", param="model")


def create_api(engine: Engine, settings: ServeConfig, defaults: GenerateConfig, *, created: int = 0) -> FastAPI:
    """The application; the caller starts and closes the engine.

    Args:
        engine: writes the texts.
        settings: limits, and the key.
        defaults: sampling settings that a request does not give.
        created: when the model was made, in seconds since 1970.
    """
    routes = Routes(engine, settings, defaults, created)
    app = FastAPI(title="elon-transformer", version="1", description=__doc__, docs_url=None, redoc_url=None)
    stream: dict[int | str, Any] = {200: {"content": {"text/event-stream": {}}}}
    text: dict[int | str, Any] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
    keyed = (401,) if settings.api_key else ()
    host = (403,) if settings.local else ()
    writing = error_schemas(400, 404, 408, 413, 429, 500, 503, *host, *keyed)
    add = app.add_api_route
    add("/health", routes.health, response_model=Health, responses=error_schemas(*host))
    plain = {**text, **error_schemas(*host, *keyed)}
    add("/metrics", routes.prometheus, response_class=PlainTextResponse, responses=plain)
    add("/v1/models", routes.models, response_model=ModelList, responses=error_schemas(*host, *keyed))
    add("/v1/models/{model}", routes.model, response_model=ModelInfo, responses=error_schemas(404, *host, *keyed))
    for path, route, kind in (
        ("/v1/completions", routes.completions, Completion),
        ("/v1/chat/completions", routes.chat, ChatCompletion),
    ):
        add(path, route, methods=["POST"], response_model=kind, responses={**stream, **writing})
    add_error_handlers(app)
    app.add_middleware(RequestChecks, settings=settings, metrics=routes.metrics)
    app.add_middleware(BrowserOrigins, origins=settings.allowed_origins)
    app.add_middleware(PlainRequests)  # the last one is the outermost
    app.openapi_schema = patch_openapi(app.openapi(), engine, keyed=bool(keyed))
    return app


def error_schemas(*statuses: int) -> dict[int | str, Any]:
    """The error responses of a route, for its OpenAPI description."""
    return {status: {"model": ErrorContent} for status in statuses}


def add_error_handlers(app: FastAPI) -> None:
    """Send every error in OpenAI's form, and answer unknown paths under /v1, which the playground would take."""

    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return validation_error(error.errors()).response()

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return ApiError(error.status_code, str(error.detail), headers=error.headers).response()

    async def crash(request: Request, error: Exception) -> Response:
        return ApiError(500, "something broke here; the server's log says what").response()

    async def unknown(request: Request) -> Response:
        known = [route for route in app.routes if route.matches(request.scope)[0] == Match.PARTIAL]
        if not known:
            raise ApiError(404, f"there is nothing at {request.url.path}: see /openapi.json")
        methods = set[str]().union(*(getattr(route, "methods", None) or () for route in known))
        allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        raise ApiError(405, f"{request.url.path} takes {allowed} only", headers={"Allow": allowed})

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, crash)
    for path in ("/v1", "/v1/{rest:path}", "/health", "/metrics", "/openapi.json"):
        app.add_route(path, unknown, methods=METHODS, include_in_schema=False)


def patch_openapi(schema: dict[str, Any], engine: Engine, *, keyed: bool) -> dict[str, Any]:
    """FastAPI's OpenAPI description, changed to what this server does: its model, context length, errors and key."""
    longest = engine.bundle.model.config.block_size - 2
    for operations in schema["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    schemas = schema["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for name in ("CompletionRequest", "ChatRequest"):
        schemas[name]["properties"]["model"]["enum"] = [MODEL_NAME]
    _, _, ids, lists = schemas["CompletionRequest"]["properties"]["prompt"]["anyOf"]
    ids["maxItems"] = lists["items"]["maxItems"] = longest
    schemas["CompletionRequest"]["not"] = {"anyOf": [{"required": list(pair), "properties": pair} for pair in PAIRS]}
    if keyed:
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in schema["paths"].items():
            if path != "/health":
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
    return schema
