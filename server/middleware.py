"""What every request goes through before the routes, and the counters for Prometheus.

In this order: the address and HEAD (`PlainRequests`), the web pages that may call (`BrowserOrigins`), and the checks of
host, key, size and time of the body (`RequestChecks`).
"""

import asyncio
import hmac
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.schema import ServeConfig
from config.serve_schema import LOCAL_HOSTS, ORIGIN
from server.schemas import ApiError

DRAIN_BYTES = 16_000_000  # read and dropped beyond the limit, so that the client gets to read the error
CLOSE = {"connection": "close"}  # the rest of the body would be taken for the next request
API_PATHS = ("/v1", "/health", "/metrics", "/openapi.json")  # with all below /v1; the others are the playground's
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
COUNTED_PATHS = ("/v1/models", "/v1/completions", "/v1/chat/completions", "/health", "/metrics")  # others: "other"
ENGINE_METRICS = {
    "running": ("gauge", "texts being written"),
    "waiting": ("gauge", "texts waiting for a place"),
    "requests": ("counter", "texts asked for"),
    "refused": ("counter", "texts refused because the queue was full"),
    "cancelled": ("counter", "texts cancelled before they ended"),
    "prompt_tokens": ("counter", "prompt tokens read"),
    "tokens": ("counter", "tokens written"),
}


class Metrics:
    """Counts the HTTP requests by path and status, and measures how long completions take."""

    def __init__(self) -> None:
        self.responses: Counter[tuple[str, int]] = Counter()
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a response; status 0 means that the client left before there was one."""
        self.responses[path if path in COUNTED_PATHS else "other", status] += 1
        if path in ("/v1/completions", "/v1/chat/completions"):
            self.buckets[bisect_left(BUCKETS, seconds)] += 1
            self.seconds += seconds

    def text(self, engine_stats: dict[str, int]) -> str:
        """All counters in Prometheus' text format; `engine_stats` are those of `Engine.stats`.

        See https://prometheus.io/docs/instrumenting/exposition_formats/.
        """
        return "\n".join([*self.http_lines(), *engine_lines(engine_stats)]) + "\n"

    def http_lines(self) -> Iterator[str]:
        """The lines on HTTP requests."""
        yield "# HELP elon_http_requests_total answers by path and status\n# TYPE elon_http_requests_total counter"
        for (path, status), number in sorted(self.responses.items()):
            yield f'elon_http_requests_total{{path="{path}",status="{status}"}} {number}'
        yield "# HELP elon_request_seconds how long texts took, from request to last byte"
        yield "# TYPE elon_request_seconds histogram"
        total = 0
        for edge, number in zip([*map(str, BUCKETS), "+Inf"], self.buckets, strict=True):
            total += number
            yield f'elon_request_seconds_bucket{{le="{edge}"}} {total}'
        yield f"elon_request_seconds_sum {self.seconds:.6f}\nelon_request_seconds_count {total}"


def engine_lines(stats: dict[str, int]) -> Iterator[str]:
    """The lines on the engine."""
    for name, (kind, help_text) in ENGINE_METRICS.items():
        full = f"elon_engine_{name}" + ("_total" if kind == "counter" else "")
        yield f"# HELP {full} {help_text}\n# TYPE {full} {kind}\n{full} {stats[name]}"


def is_api(path: str) -> bool:
    """Whether a path belongs to the API, not to the playground."""
    return path in API_PATHS or path.startswith("/v1/")


class PlainRequests:
    """An ASGI middleware: slashes that are doubled or at the end of an address of the API do not matter, and HEAD is
    answered wherever GET is, with the same headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        plain = "/" + "/".join(part for part in scope["path"].split("/") if part)
        if is_api(plain):
            scope = {**scope, "path": plain}

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})

        if scope["method"] == "HEAD":
            await self.app({**scope, "method": "GET"}, receive, send_head)
        else:
            await self.app(scope, receive, send)


class BrowserOrigins(CORSMiddleware):
    """Lets the web pages that `serve.origins` names call the API from a browser. It refuses the preflight requests of
    others, with the reason. See https://fetch.spec.whatwg.org/#http-cors-protocol.

    Args:
        app: gets all other requests.
        origins: the pages, as in `ServeConfig.allowed_origins`.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=("Retry-After",),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        api = scope["type"] == "http" and is_api(scope["path"])
        await (super().__call__ if api else self.app)(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """The response to the request by which a browser asks whether it may send another one."""
        origin = request_headers["origin"]
        if not self.is_allowed_origin(origin):
            flag = f"--serve.origins {origin if ORIGIN.fullmatch(origin) else '*'}"
            reason = f"web pages from {origin!r} may not call this server: start it with {flag!r} to allow them"
            return ApiError(403, reason, code="origin_not_allowed").response()
        response = super().preflight_response(request_headers)
        if response.status_code == 200:  # with the text OK; browsers expect no text
            headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
            return Response(status_code=204, headers=headers)
        return response


class RequestChecks:
    """An ASGI middleware. It refuses requests to other hosts, without the key, or with a body that is too long or too
    slow, and counts the others with them.

    The host check prevents DNS rebinding: a web page can make a browser send requests to 127.0.0.1 under the page's
    own host name. A server that listens for this machine only therefore accepts the names of this machine only.

    Args:
        app: gets the requests that pass, each with its whole body.
        settings: host, key and limits.
        metrics: counts the requests to the API.
    """

    def __init__(self, app: ASGIApp, settings: ServeConfig, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        path, started, status = scope["path"], time.perf_counter(), 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                headers = Headers(scope=scope)
                self.check_host(headers)
                if scope["type"] == "http":
                    self.check_key(path, headers)
                    receive = await self.read_body(headers, receive)
            except ApiError as error:
                await error.response()(scope, receive, send_and_note)
                return
            await self.app(scope, receive, send_and_note)
        finally:
            if is_api(path):
                self.metrics.count(path, status, time.perf_counter() - started)

    def check_host(self, headers: Headers) -> None:
        """Refuse other host names than this machine's, if the server listens for this machine only."""
        if not self.settings.local:
            return
        try:
            name = urlsplit(f"//{headers.get('host', '')}").hostname
        except ValueError:
            name = None
        if name not in LOCAL_HOSTS:
            reason = (
                f"this server listens for this machine only and answers as 127.0.0.1 and localhost, not as {name!r}: "
                "start it with --serve.host 0.0.0.0 to allow every name, and everybody who can reach this machine"
            )
            raise ApiError(403, reason, code="host_not_allowed")

    def check_key(self, path: str, headers: Headers) -> None:
        """Refuse requests to the API without the key, if there is one."""
        if self.settings.api_key is None or not (path.startswith("/v1/") or path in ("/v1", "/metrics")):
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self.settings.api_key.encode()):
            raise ApiError(
                401,
                "this server wants its key: send `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def read_body(self, headers: Headers, receive: Receive) -> Receive:
        """Read the whole body; returns a `receive` that gives it.

        Raises:
            ApiError: it is too long, takes too long, or ends early.
        """
        if "transfer-encoding" not in headers and headers.get("content-length", "0") == "0":
            return receive
        limit, seconds = 1000 * self.settings.max_body_kb, self.settings.timeout_seconds
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(seconds):
                while more and size <= limit + DRAIN_BYTES:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "the client left before its body was whole", headers=CLOSE)
                    size += len(message.get("body", b""))
                    more = message.get("more_body", False)
                    parts = [*parts, message.get("body", b"")] if size <= limit else []
        except TimeoutError:
            raise ApiError(408, f"the body took longer than {seconds:g} seconds", headers=CLOSE) from None
        if size > limit:
            raise ApiError(413, f"the body is longer than {self.settings.max_body_kb} kB", headers=CLOSE)
        messages: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return replay
