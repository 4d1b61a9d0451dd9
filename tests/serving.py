"""A real server on a free port, for tests that are clients."""

import copy
import html
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from config.cli import parse
from config.schema import Config
from generate.generate import load_copy_check
from model.checkpoint import Bundle
from model.language_model import LanguageModel
from server.api import create_api
from server.engine import Engine
from server.server import listen, make_server

Made = TypeVar("Made")
NASTY = "<script>alert(1)</script><img src=x onerror=alert(2)>${alert(3)}{{value}}`\"'&amp; 🚀"


@contextmanager
def serving(bundle: Bundle[LanguageModel], *, key: str | None = None, **limits: Any) -> Iterator[tuple[str, Engine]]:
    """Its address, and its engine."""
    config = served(key=key, **limits)
    with (
        Engine(bundle, None, width=config.serve.width, queue=config.serve.queue) as engine,
        listen(config.serve) as sock,
    ):
        ready = threading.Event()
        server = make_server(create_api(engine, config.serve, config.generate), ready=ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            assert ready.wait(10)
            yield f"http://127.0.0.1:{sock.getsockname()[1]}", engine
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def served(*, key: str | None = None, **limits: Any) -> Config:
    """Settings of a server on a free port."""
    config = parse("serve", [])[0]
    return replace(config, serve=replace(config.serve, port=0, api_key=key, **limits))


@dataclass(frozen=True)
class Playground:
    """What the playground's page is made of."""

    config: Config
    engine: Engine


@contextmanager
def playing(trained: tuple[Config, Bundle], root: Path) -> Iterator[Playground]:
    """A playground in a folder like the one the model was trained in, with a student beside it."""
    shutil.copytree(trained[0].paths.root, root)
    shutil.copy(root / "checkpoints" / "best_model.pth", root / "checkpoints" / "student.pth")
    flags = ["--paths.root", str(root), "--serve.port", "0", "--generate.num_samples", "3"]
    config = parse("serve", [*flags, "--generate.max_new_tokens", "40"])[0]
    copies = load_copy_check(config.paths)
    with Engine(trained[1], copies, width=8, queue=32) as engine:
        yield Playground(config, engine)


@contextmanager
def playground_at(playground: Playground) -> Iterator[str]:
    """The address of the whole server, API and playground."""
    from web.serve import application

    ready = threading.Event()
    with listen(playground.config.serve) as sock:
        server = make_server(application(playground.engine, playground.config), ready=ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            assert ready.wait(20)
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@torch.no_grad()
def endless(bundle: Bundle) -> Bundle:
    """The same model, but its texts never end by themselves."""
    other = copy.deepcopy(bundle.model)
    assert other.head_bias is not None
    other.head_bias[bundle.vocabulary.end] = -1e9
    return replace(bundle, model=other)


def until(condition: Any, seconds: float = 5.0) -> None:
    """Wait for something to come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def built(make: Callable[[], Made]) -> Made:
    """A part of the page, by itself."""

    import gradio as gr

    from web.app import call_in_event_loop

    def build() -> Made:
        with gr.Blocks():
            return make()

    return call_in_event_loop(build)


def data_of(page: str) -> list[dict[str, Any]]:
    """What the cards hold for the buttons that save them."""
    found = re.search(r'data-samples="([^"]*)"', page)
    assert found
    samples: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    return samples
