"""`python main.py serve`: one server for the playground and the API."""

import asyncio
import errno
import os
import socket
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from config.cli import run_command
from config.schema import Config, ServeConfig, UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from web.engine import Engine

PACKAGES = ("fastapi", "uvicorn", "gradio")
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}  # nothing leaves the machine
HEADER_SECONDS = 10.0  # for the headers of a request to arrive
GRACE_SECONDS = 1  # for open streams, after Ctrl-C


def serve(config: Config, arguments: Namespace) -> None:
    """The command: load, warm up, listen, until Ctrl-C.

    Raises:
        UserError: a package is missing, the port is taken, or there is no checkpoint.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"serve needs {', '.join(missing)}: run `make serve`, or pip install -r requirements-full.txt")
    os.environ.update(QUIET)
    with listen(config.serve) as door:  # first, because loading takes longer than to see that the port is taken
        import torch

        from generate.generate import load_copy_check
        from model.checkpoint import load_bundle
        from model.device import choose_device
        from model.linear import lay_out_for_writing
        from web.engine import Engine

        threads = config.machine.threads or max(1, torch.get_num_threads() - 1)  # a core is left to answering
        bundle = load_bundle(config.paths.best_model, choose_device(replace(config.machine, threads=threads)))
        lay_out_for_writing(bundle.model)
        copies = load_copy_check(config.paths, bundle.tokenizer)
        with Engine(bundle, copies, width=config.serve.width, queue=config.serve.queue) as engine:
            warm_up(engine, config)
            run_server(application(engine, config), door, ready=lambda: print_addresses(config.serve, door))


def listen(settings: ServeConfig) -> socket.socket:
    """A socket on serve.host and serve.port.

    Raises:
        UserError: it can't be had.
    """
    where = f"port {settings.port} of {settings.host}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio only sends small answers at once (TCP_NODELAY) where a socket says that it is TCP
    door = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((settings.host, settings.port))
        door.listen(2048)
    except OSError as error:
        door.close()
        if error.errno == errno.EADDRINUSE:
            other = settings.port + 1 if settings.port < 65535 else 0
            raise UserError(
                f"{where} is in use, maybe by another `serve`: stop that, or add --serve.port {other}"
            ) from None
        if error.errno == errno.EACCES:
            raise UserError(f"{where} is not allowed: give a port from 1024 on with --serve.port") from None
        raise UserError(f"can't listen on {where} ({error.strerror}): check --serve.host") from None
    return door


def warm_up(engine: "Engine", config: Config) -> None:
    """Write a little, so that the first client does not wait for what is set up only once."""
    for request in [engine.submit(prompt, config.generate, seed=0) for prompt in ("", "Hello", "How are you")]:
        request.result()


def application(engine: "Engine", config: Config) -> "FastAPI":
    """The API, and the playground at /."""
    from web.api import create_api
    from web.app import mount_playground

    made = config.paths.best_model.stat().st_mtime
    api = create_api(engine, config.serve, config.generate, created=int(made))
    return mount_playground(api, engine, config)


def run_server(app: "FastAPI", door: socket.socket, *, ready: Callable[[], None]) -> None:
    """Answer until Ctrl-C, SIGTERM, or `should_exit` of the server."""
    make_server(app, ready=ready).run(sockets=[door])


def make_server(app: "FastAPI", *, ready: Callable[[], None]) -> Any:
    """A uvicorn server that calls `ready` when it listens, and does not wait for headers for ever."""
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        """Closes a connection whose next request has begun, or has never come, but is not there in time."""

        deadline: asyncio.TimerHandle | None = None

        def expect(self) -> None:
            """Watch the clock while headers are awaited."""
            if self.conn.their_state is not h11.IDLE and self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None
            elif self.conn.their_state is h11.IDLE and self.deadline is None:
                self.deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.expect()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.expect()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.deadline is not None:
                self.deadline.cancel()

    class Announced(uvicorn.Server):
        """Says when it is ready."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    settings = uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    return Announced(settings)


def print_addresses(settings: ServeConfig, door: socket.socket) -> None:
    """Where to go."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{door.getsockname()[1]}"
    key = "with your key" if settings.api_key else "any key will do"
    print(f"Playground  {address}\nAPI         {address}/v1  (OpenAI's, {key}; model elon-transformer)", flush=True)
    print("Ctrl-C ends.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command("serve", sys.argv[1:]))
