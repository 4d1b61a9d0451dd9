"""How fast the server is, and whether it is stable under load: `python -m benchmarks.serve [--checkpoint PATH]`.

The server is a process of its own. Its clients are threads of this process, each with a real connection that it keeps
open. Without a checkpoint the model has the default shape and random weights, which hardly ever end a text: each gets
40 tokens. Counted are the tokens that the server reports. Prints a Markdown table and one line of JSON.
"""

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.cli import parse
from server.schemas import MODEL_NAME

ROOT = Path(__file__).parents[1]
REPEATS = 5
BODY = {"model": MODEL_NAME, "prompt": "The first people on Mars", "max_tokens": 40}


def untrained(folder: Path) -> Path:
    """A checkpoint with the default shape, a vocabulary of 8,000 and random weights."""
    import torch

    from model.checkpoint import model_content, save_checkpoint
    from model.tokenizer import load_tokenizer
    from model.transformer import GPT
    from model.vocabulary import Vocabulary

    config = parse("serve", [])[0]
    vocabulary = Vocabulary.build(config.model, load_tokenizer(), [range(8000)])
    torch.manual_seed(0)
    path = folder / "random.pth"
    save_checkpoint(path, model_content(GPT(config.model, vocabulary.vocab_size), vocabulary, config, {}))
    return path


@contextmanager
def server(checkpoint: Path) -> Iterator[tuple[int, int]]:
    """`python main.py serve` on a free port; its process id and the port."""
    command = [sys.executable, "main.py", "serve", "--serve.port", "0", "--paths.checkpoint", str(checkpoint)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
                yield process.pid, int(found[1])
                return
        raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.wait()


@dataclass
class Load:
    """What a number of clients received in a time."""

    clients: int
    seconds: float = 0.0
    tokens: int = 0
    errors: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Tokens a second, of all clients together."""
        return self.tokens / self.seconds


def put_load(port: int, clients: int, seconds: float) -> Load:
    """Let so many clients request one text after the other."""
    load, lock, begin = Load(clients), threading.Lock(), time.perf_counter()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        seed = 1000 * number
        while time.perf_counter() < begin + seconds:
            seed, started = seed + 1, time.perf_counter()
            status, answer = post(connection, {**BODY, "seed": seed})
            with lock:
                load.errors += status != 200
                load.tokens += answer["usage"]["completion_tokens"] if status == 200 else 0
                load.latencies.append(time.perf_counter() - started)
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - begin
    return load


def post(connection: http.client.HTTPConnection, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and answer; status 0 if the connection broke."""
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0, {}


def first_tokens(port: int, count: int) -> list[float]:
    """Seconds until the first token of a stream, of one client, several times."""
    connection, waits = http.client.HTTPConnection("127.0.0.1", port, timeout=60), []
    for seed in range(count):
        body = json.dumps({**BODY, "seed": seed, "stream": True})
        started = time.perf_counter()
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert b'"text":"' in response.readline()
        waits.append(time.perf_counter() - started)
        response.read()
    connection.close()
    return waits


def memory(pid: int) -> float:
    """Megabytes that a process holds in memory."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1000


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(checkpoint: Path, *, seconds: float) -> dict[str, Any]:
    """All measurements, on one server."""
    with server(checkpoint) as (pid, port):
        put_load(port, 16, 3.0)  # warm-up
        waits = first_tokens(port, 50)
        speeds: dict[int, list[float]] = {1: [], 16: []}
        for _ in range(REPEATS):
            for clients, found in speeds.items():
                found.append(put_load(port, clients, 3.0).speed)
        held = [memory(pid)]
        timers = [threading.Timer(share, lambda: held.append(memory(pid))) for share in (10, seconds - 0.5)]
        for timer in timers:
            timer.start()
        load = put_load(port, 64, seconds)
        held.append(memory(pid))
    return {
        "tokens_per_second": {str(clients): found for clients, found in speeds.items()},
        "ratio": statistics.median(speeds[16]) / statistics.median(speeds[1]),
        "first_token_ms": {"p50": 1e3 * percentile(waits, 0.5), "p95": 1e3 * percentile(waits, 0.95)},
        "load": {
            "clients": 64,
            "seconds": load.seconds,
            "requests": len(load.latencies),
            "errors": load.errors,
            "tokens_per_second": load.speed,
            "latency_ms": {f"p{p}": 1e3 * percentile(load.latencies, p / 100) for p in (50, 95, 99)},
        },
        "memory_mb": dict(zip(("start", "10 s", "end", "after"), held, strict=True)),
    }


def table(found: dict[str, Any]) -> str:
    """As Markdown."""
    lines = ["| what | measured |", "|---|---:|"]
    for clients, speeds in found["tokens_per_second"].items():
        spread = f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})"
        lines.append(f"| tokens a second, {clients} client{'s' if clients != '1' else ''} | {spread} |")
    load, first, held = found["load"], found["first_token_ms"], found["memory_mb"]
    lines.append(f"| 16 clients over 1 | {found['ratio']:.1f} times |")
    lines.append(f"| first token, 1 client | {first['p50']:.0f} ms (95%: {first['p95']:.0f}) |")
    lines.append(
        f"| 64 clients for {load['seconds']:.0f} s: requests, errors | {load['requests']:,}, {load['errors']} |"
    )
    lines.append(f"| tokens a second, 64 clients | {load['tokens_per_second']:,.0f} |")
    times = load["latency_ms"]
    lines.append(
        f"| their latency: median, 95%, 99% | {times['p50']:,.0f}, {times['p95']:,.0f}, {times['p99']:,.0f} ms |"
    )
    shown = ", ".join(f"{held[when]:,.0f}" for when in ("start", "10 s", "end"))
    lines.append(f"| memory before, after 10 s, at the end | {shown} MB |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="a trained model; without one, random weights")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the load with 64 clients; more than 12")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments.checkpoint or untrained(Path(folder)), seconds=arguments.seconds)
    print(table(found))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
