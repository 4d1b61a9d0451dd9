"""What stands before every request: whose it is, how long it is, how long it takes to arrive; and the books."""

import asyncio
import hmac
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.schema import LOCAL_HOSTS, ServeConfig
from server.errors import ApiError
from server.metrics import Metrics

DRAIN_BYTES = 16_000_000  # of a body that is too long are read and dropped, so that its sender gets to see the answer
CLOSE = {"connection": "close"}  # what is left of the body would be taken for the next request
OURS = ("/v1", "/health", "/metrics", "/openapi.json")


def is_ours(path: str) -> bool:
    """Whether a path belongs to the API rather than to the playground."""
    return path in OURS or path.startswith("/v1/")


class Guard:
    """An ASGI middleware: refuses strangers and monsters, hands the whole body on, and keeps the books.

    A web page elsewhere can make a browser send requests to this machine under a name of its own that suddenly points
    here (DNS rebinding); so a server that is there for this machine only answers to this machine's names only.
    """

    def __init__(self, app: ASGIApp, settings: ServeConfig, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                headers = Headers(scope=scope)
                self.check_host(headers)
                if scope["type"] == "http":
                    self.check_key(scope["path"], headers)
                    receive = await self.whole_body(headers, receive)
            except ApiError as error:
                await error.response()(scope, receive, note)
                return
            await self.app(scope, receive, note)
        finally:
            if is_ours(scope["path"]):
                self.metrics.count(scope["path"], status, time.perf_counter() - started)

    def check_host(self, headers: Headers) -> None:
        """Refuse a name that is not this machine's, if it is there for this machine only."""
        if not self.settings.local:
            return
        try:
            name = urlsplit(f"//{headers.get('host', '')}").hostname
        except ValueError:
            name = None
        if name not in LOCAL_HOSTS:
            raise ApiError(403, "this server answers as 127.0.0.1 and localhost only", code="host_not_allowed")

    def check_key(self, path: str, headers: Headers) -> None:
        """Refuse clients of the API that don't have the key, where there is one."""
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

    async def whole_body(self, headers: Headers, receive: Receive) -> Receive:
        """Read the body, if it is short enough and comes in time; returns a `receive` that gives it."""
        if "transfer-encoding" not in headers and headers.get("content-length", "0") == "0":
            return receive
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                body = await self.read(receive, 1000 * self.settings.max_body_kb)
        except TimeoutError:
            raise ApiError(
                408, f"the body took longer than {self.settings.timeout_seconds:g} seconds", headers=CLOSE
            ) from None
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return replay

    async def read(self, receive: Receive, limit: int) -> bytes:
        """The body, of at most `limit` bytes."""
        parts: list[bytes] = []
        size, more = 0, True
        while more and size <= limit + DRAIN_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ApiError(400, "the client left before its body was whole", headers=CLOSE)
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
            parts = [*parts, message.get("body", b"")] if size <= limit else []
        if size > limit:
            raise ApiError(413, f"the body is longer than {self.settings.max_body_kb} kB", headers=CLOSE)
        return b"".join(parts)
