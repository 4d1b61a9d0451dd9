"""`python main.py serve`: one server for the playground and the API."""

import gc
import os
import shutil
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from config.cli import run_command
from config.schema import Config, UserError
from server.server import listen, print_addresses, run_server

if TYPE_CHECKING:
    from fastapi import FastAPI

    from server.engine import Engine

PACKAGES = ("fastapi", "uvicorn", "gradio")
FOLDER = "GRADIO_TEMP_DIR"  # Gradio reads it when it is imported
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}  # no other hosts


def serve(config: Config, arguments: Namespace) -> None:
    """The command: load the model and serve it until Ctrl-C.

    Raises:
        UserError: a package is missing, the port is in use, there is no checkpoint, or Gradio's folder can't be
            written to.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"serve needs {', '.join(missing)}: run `make serve`, or pip install -r requirements-full.txt")
    os.environ.update(QUIET)
    with (
        gradio_folder(),
        listen(config.serve) as sock,
    ):  # first, because a port in use is noticed sooner than the model is loaded
        import torch

        from generate.generate import load_copy_check
        from model.device import choose_device
        from model.folder import load_model
        from server.engine import Engine
        from utils.memory import threads_allowed

        cores = threads_allowed(torch.get_num_threads())
        threads = config.machine.threads or max(1, cores - 1)  # one core is left for the HTTP server
        bundle = load_model(config.paths.best_model, choose_device(replace(config.machine, threads=threads)))
        copies = load_copy_check(config.paths)
        with Engine(bundle, copies, width=config.serve.width, queue=config.serve.queue) as engine:
            warm_up(engine, config)
            try:
                run_server(application(engine, config), sock, ready=lambda: print_addresses(config.serve, sock))
            finally:
                gc.freeze()  # else Python looks through all objects once more before it ends: seconds, with Gradio


@contextmanager
def gradio_folder() -> Iterator[None]:
    """A temporary folder of Gradio's own, unless GRADIO_TEMP_DIR names one: the usual one, gradio in the system's
    temporary folder, may belong to another user of this machine.

    Raises:
        UserError: GRADIO_TEMP_DIR names a folder that can't be written to.
    """
    if named := os.environ.get(FOLDER):
        try:
            Path(named).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=named):
                pass
        except OSError as error:
            advice = "set it to a folder of yours, or unset it"
            raise UserError(f"{FOLDER} is {named}, which can't be written to ({error.strerror}): {advice}") from None
        yield
        return
    made = os.environ[FOLDER] = tempfile.mkdtemp(prefix="gradio-")

    def remove_and_end(number: int, frame: object) -> None:
        shutil.rmtree(made, ignore_errors=True)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, remove_and_end)  # which would end the process without the lines below
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        del os.environ[FOLDER]
        shutil.rmtree(made, ignore_errors=True)


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
