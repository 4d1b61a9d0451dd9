"""Clients that send half a body, hang up early, dawdle or lie: the server stays well and their places get free."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from config.schema import Config
from model.checkpoint import Bundle
from server import server
from server.engine import Engine
from server.schemas import MODEL_NAME
from tests.serving import endless, serving, until

Serving = tuple[tuple[str, int], Engine]
SECONDS = 1.0  # the time limit of this server


@pytest.fixture(scope="module")
def server_and_engine(trained: tuple[Config, Bundle]) -> Iterator[Serving]:
    """A server whose texts never end by themselves, and which has little patience."""
    limit = pytest.MonkeyPatch()
    limit.setattr(server, "HEADER_SECONDS", SECONDS)
    with serving(endless(trained[1]), width=8, queue=400, timeout_seconds=SECONDS) as (address, engine):
        host, port = address.removeprefix("http://").split(":")
        yield (host, int(port)), engine
    limit.undo()


def post(body: bytes, *, length: int | None = None, more: str = "") -> bytes:
    """A request as bytes; `length` is what it claims to have."""
    size = len(body) if length is None else length
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{more}"
    return (head + f"Content-Length: {size}\r\n\r\n").encode() + body


def wanted(**more: object) -> bytes:
    return json.dumps({"model": MODEL_NAME, "prompt": "Hi", **more}).encode()


def answer(to: tuple[str, int], request: bytes, *, seconds: float = 10.0) -> bytes:
    """All that the server says until it closes, or until nothing more comes."""
    with socket.create_connection(to, timeout=seconds) as client:
        client.sendall(request)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
        return b"".join(parts)


def is_well(to: tuple[str, int], engine: Engine) -> None:
    """It answers a polite client, and nobody's place is taken."""
    until(lambda: engine.stats()["running"] + engine.stats()["waiting"] == 0)
    with httpx.Client(base_url=f"http://{to[0]}:{to[1]}", timeout=10) as client:
        assert client.get("/health").json() == {"status": "ok"}
        done = client.post(
            "/v1/completions", content=wanted(max_tokens=3), headers={"content-type": "application/json"}
        )
    assert done.json()["usage"]["completion_tokens"] == 3


def test_two_hundred_rude_clients_at_once(server_and_engine: Serving) -> None:
    to, engine = server_and_engine
    threads = threading.active_count()
    rude = [
        post(wanted()[:20], length=500),  # half a body
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0",  # half a head
        b"",  # nothing at all
        post(wanted(stream=True)),  # a stream nobody reads
        post(wanted()),  # an answer nobody waits for
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),  # TLS
        post(wanted(n=8)),
        post(b"", length=10**15),
    ]
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(to, timeout=10)) for _ in range(200)]
        for number, client in enumerate(clients):
            client.sendall(rude[number % len(rude)])
        with httpx.Client(base_url=f"http://{to[0]}:{to[1]}", timeout=10) as polite:  # while they all hang on
            assert polite.get("/health").json() == {"status": "ok"}
        for client in clients[::2]:
            client.close()
        time.sleep(0.3)
    is_well(to, engine)
    assert threading.active_count() == threads


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_frees_the_place(server_and_engine: Serving, stream: bool) -> None:
    to, engine = server_and_engine
    before = engine.stats()
    with ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(socket.create_connection(to, timeout=10))
            client.sendall(post(wanted(stream=stream, n=16)))
        until(lambda: engine.stats()["requests"] == before["requests"] + 8 * 16)
    started = time.monotonic()
    until(lambda: engine.stats()["running"] + engine.stats()["waiting"] == 0)
    assert time.monotonic() - started < SECONDS  # at once, not when their time is up
    assert engine.stats()["cancelled"] - before["cancelled"] > 80
    is_well(to, engine)


def test_half_a_body_times_out(server_and_engine: Serving) -> None:
    to, engine = server_and_engine
    started = time.monotonic()
    said = answer(to, post(wanted()[:10], length=100))
    assert said.startswith(b"HTTP/1.1 408") and b"the body took longer than 1 seconds" in said
    assert SECONDS * 0.9 < time.monotonic() - started < SECONDS + 3
    chunked = b'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"mod'
    assert answer(to, chunked).startswith(b"HTTP/1.1 408")
    is_well(to, engine)


def test_half_a_head_is_hung_up_on(server_and_engine: Serving) -> None:
    to, engine = server_and_engine
    for request in (b"", b"GET /health HTT"):
        assert answer(to, request) == b""
    with socket.create_connection(to, timeout=10) as client:  # after a whole one, too
        client.sendall(post(wanted(max_tokens=1)))
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /health HTT")
        while client.recv(65536):
            pass
    is_well(to, engine)


def test_long_bodies_are_refused_however_they_come(server_and_engine: Serving) -> None:
    to, engine = server_and_engine
    pieces = b"".join(b"10000\r\n" + b"x" * 0x10000 + b"\r\n" for _ in range(6)) + b"0\r\n\r\n"
    chunked = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces
    for request in (post(b"x" * 300_000), chunked):
        said = answer(to, request)
        assert said.startswith(b"HTTP/1.1 413") and b"longer than 256 kB" in said
    is_well(to, engine)


def test_a_body_that_dribbles_in_is_still_understood(server_and_engine: Serving) -> None:
    to, engine = server_and_engine
    request = post(wanted(max_tokens=2), more="Connection: close\r\n")
    with socket.create_connection(to, timeout=10) as client:
        for byte in request:
            client.sendall(bytes([byte]))
        said = b""
        while part := client.recv(65536):
            said += part
    assert b'"completion_tokens":2' in said
    is_well(to, engine)
