"""The HTTP server: a listening socket, and uvicorn on it."""

import asyncio
import errno
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from config.schema import ServeConfig, UserError

if TYPE_CHECKING:
    from fastapi import FastAPI


HEADER_SECONDS = 10.0  # a request's headers must arrive within this time
GRACE_SECONDS = 0.5  # open streams may go on for this long after Ctrl-C


def listen(settings: ServeConfig) -> socket.socket:
    """A socket that listens on serve.host and serve.port.

    Raises:
        UserError: the port is in use or not allowed, or the host is not this machine's.
    """
    where = f"port {settings.port} of {settings.host}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY (small responses are sent at once) only if the socket names TCP as its protocol
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((settings.host, settings.port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            other = settings.port + 1 if settings.port < 65535 else 0
            raise UserError(
                f"{where} is in use, maybe by another `serve`: stop that, or add --serve.port {other}"
            ) from None
        if error.errno == errno.EACCES:
            raise UserError(f"{where} is not allowed: give a port from 1024 on with --serve.port") from None
        raise UserError(f"can't listen on {where} ({error.strerror}): check --serve.host") from None
    return sock


def run_server(app: "FastAPI", sock: socket.socket, *, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; `ready` is called when the server listens."""
    make_server(app, ready=ready).run(sockets=[sock])


def make_server(app: "FastAPI", *, ready: Callable[[], None]) -> Any:
    """A uvicorn.Server that calls `ready` when it listens, and closes connections whose headers come too slowly.

    When it is told to end, it closes all connections after GRACE_SECONDS.
    """
    # long: the classes are here because uvicorn is an optional package, imported only to serve
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class HeaderTimeoutProtocol(H11Protocol):
        """Closes a connection if its first headers, or headers that have begun, are not complete in HEADER_SECONDS."""

        deadline: asyncio.TimerHandle | None = None

        def watch(self) -> None:
            """Start the clock while headers are awaited, stop it when they are there."""
            if self.conn.their_state is h11.IDLE and self.deadline is None:
                self.deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)
            elif self.conn.their_state is not h11.IDLE and self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.watch()

    class ReadyServer(uvicorn.Server):
        """Calls `ready` when it has started, and ends soon after it is told to."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Close the connections that are open after GRACE_SECONDS; a page keeps one for as long as it is shown."""
            asyncio.get_running_loop().call_later(GRACE_SECONDS, self.close_connections)
            await super().shutdown(sockets)

        def close_connections(self) -> None:
            """End all connections; to their requests it looks as if the clients had left."""
            for connection in list(self.server_state.connections):
                connection.transport.abort()

    settings = uvicorn.Config(
        app,
        http=HeaderTimeoutProtocol,
        ws="none",
        log_level="warning",
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    return ReadyServer(settings)


def print_addresses(settings: ServeConfig, sock: socket.socket) -> None:
    """Print where the server is."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{sock.getsockname()[1]}"
    key = "with your key" if settings.api_key else "any key will do"
    print(f"Playground  {address}\nAPI         {address}/v1  (OpenAI's, {key}; model elon-transformer)", flush=True)
    print("Ctrl-C ends.", file=sys.stderr)
