"""`python main.py serve`: one server for the playground and the API."""

import os
import sys
from argparse import Namespace
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from config.cli import run_command
from config.schema import Config, UserError
from server.server import listen, print_addresses, run_server

if TYPE_CHECKING:
    from fastapi import FastAPI

    from server.engine import Engine

PACKAGES = ("fastapi", "uvicorn", "gradio")
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}  # no other hosts


def serve(config: Config, arguments: Namespace) -> None:
    """The command: load the model and serve it until Ctrl-C.

    Raises:
        UserError: a package is missing, the port is in use, or there is no checkpoint.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"serve needs {', '.join(missing)}: run `make serve`, or pip install -r requirements-full.txt")
    os.environ.update(QUIET)
    with listen(config.serve) as sock:  # first, because a port in use is noticed sooner than the model is loaded
        import torch

        from generate.generate import load_copy_check
        from model.checkpoint import load_bundle
        from model.device import choose_device
        from server.engine import Engine
        from utils.memory import threads_allowed

        cores = threads_allowed(torch.get_num_threads())
        threads = config.machine.threads or max(1, cores - 1)  # one core is left for the HTTP server
        bundle = load_bundle(config.paths.best_model, choose_device(replace(config.machine, threads=threads)))
        copies = load_copy_check(config.paths, bundle.tokenizer)
        with Engine(bundle, copies, width=config.serve.width, queue=config.serve.queue) as engine:
            warm_up(engine, config)
            run_server(application(engine, config), sock, ready=lambda: print_addresses(config.serve, sock))


def warm_up(engine: "Engine", config: Config) -> None:
    """Write a few texts, so that the first client does not wait for what is set up once."""
    for request in [engine.submit(prompt, config.generate, seed=0) for prompt in ("", "Hello", "How are you")]:
        request.result()


def application(engine: "Engine", config: Config) -> "FastAPI":
    """The API, with the playground at /."""
    from server.api import create_api
    from web.app import mount_playground

    made = config.paths.best_model.stat().st_mtime
    api = create_api(engine, config.serve, config.generate, created=int(made))
    return mount_playground(api, engine, config)


if __name__ == "__main__":
    sys.exit(run_command("serve", sys.argv[1:]))
