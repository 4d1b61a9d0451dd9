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
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}  # nothing leaves the machine


def serve(config: Config, arguments: Namespace) -> None:
    """The command: load, warm up, listen, until Ctrl-C.

    Raises:
        UserError: a package is missing, the port is taken, or there is no checkpoint.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"serve needs {', '.join(missing)}: run `make serve`, or pip install -r requirements-full.txt")
    os.environ.update(QUIET)
    with listen(config.serve) as sock:  # first, because loading takes longer than to see that the port is taken
        import torch

        from generate.generate import load_copy_check
        from model.checkpoint import load_bundle
        from model.device import choose_device
        from model.linear import lay_out_for_writing
        from server.engine import Engine

        threads = config.machine.threads or max(1, torch.get_num_threads() - 1)  # a core is left to answering
        bundle = load_bundle(config.paths.best_model, choose_device(replace(config.machine, threads=threads)))
        lay_out_for_writing(bundle.model)
        copies = load_copy_check(config.paths)
        with Engine(bundle, copies, width=config.serve.width, queue=config.serve.queue) as engine:
            warm_up(engine, config)
            run_server(application(engine, config), sock, ready=lambda: print_addresses(config.serve, sock))


def warm_up(engine: "Engine", config: Config) -> None:
    """Write a little, so that the first client does not wait for what is set up only once."""
    for request in [engine.submit(prompt, config.generate, seed=0) for prompt in ("", "Hello", "How are you")]:
        request.result()


def application(engine: "Engine", config: Config) -> "FastAPI":
    """The API, and the playground at /."""
    from server.api import create_api
    from web.app import mount_playground

    made = config.paths.best_model.stat().st_mtime
    api = create_api(engine, config.serve, config.generate, created=int(made))
    return mount_playground(api, engine, config)


if __name__ == "__main__":
    sys.exit(run_command("serve", sys.argv[1:]))
