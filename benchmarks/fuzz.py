"""Runs the property tests and a fuzzer against the API for minutes, with far more examples than `make test` uses.

    python -m benchmarks.fuzz --minutes 5 --seed 0

Half of the time goes to the tests that use hypothesis, shared evenly: each runs as usual first, then with as many
examples as fit into its share. The other half goes to schemathesis: it reads the API's description from a server on a
tiny model and sends valid and invalid requests. A failure is shown with its smallest example.
"""

import argparse
import contextlib
import functools
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TINY = "--model.n_layer 1 --model.n_embd 16 --model.n_head 2 --train.epochs 2 --evaluate.samples 0 --machine.device cpu"


@dataclass
class Line:
    """The result of one test."""

    name: str
    examples: int = 0
    failures: int = 0
    seconds: float = 0.0

    def row(self) -> str:
        """Its line of the table."""
        return f"| {self.name} | {self.examples:,} | {self.failures} | {self.seconds:.0f} |"


class Longer:
    """A pytest plugin that gives each hypothesis test an equal share of the time, and counts its examples."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.share = seconds, 0.0
        self.lines: dict[str, Line] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Each test's share of the time, among those that will run."""
        self.share = self.seconds / max(1, len(session.items))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Function) -> None:
        """Run it as usual, and set it up to be run again with more examples."""
        from hypothesis import settings  # pytest wants to see it first

        line = self.lines[item.nodeid] = Line(item.nodeid.removeprefix("tests/test_").replace(".py::test_", ": "))
        handle = item.obj.hypothesis
        handle.inner_test = counting(handle.inner_test, line)
        usual: settings = item.obj._hypothesis_internal_use_settings
        started = time.monotonic()
        item.runtest()
        times = max(1.0, self.share / (time.monotonic() - started) - 1.0)
        item.obj._hypothesis_internal_use_settings = settings(usual, max_examples=int(usual.max_examples * times))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the time, and whether it failed."""
        if report.when == "call":
            self.lines[report.nodeid].seconds = report.duration
        if report.nodeid in self.lines:
            self.lines[report.nodeid].failures += report.failed


def counting(test: Callable[..., Any], line: Line) -> Callable[..., Any]:
    """The same test; each call counts as an example."""

    @functools.wraps(test)
    def counted(*arguments: Any, **more: Any) -> Any:
        line.examples += 1
        return test(*arguments, **more)

    return counted


def fuzz_tests(seconds: float, seed: int) -> list[Line]:
    """Run the property tests for so many seconds; pytest's output goes to standard error."""
    files = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if "@given" in path.read_text("utf-8")]
    plugin = Longer(seconds)
    with contextlib.redirect_stdout(sys.stderr):
        flags = ["-m", "hypothesis", "-p", "no:randomly", "--hypothesis-seed", str(seed), "--durations", "0"]
        code = pytest.main([*files, *flags], plugins=[plugin])
    lines = list(plugin.lines.values())
    if code != (pytest.ExitCode.TESTS_FAILED if any(line.failures for line in lines) else pytest.ExitCode.OK):
        lines.append(Line(f"pytest ended with {code!r}", failures=1))
    return lines


@contextlib.contextmanager
def serving(root: Path) -> Iterator[str]:
    """The address of a server on a tiny model, made under `root`; it must end by itself on request."""
    main, where = [sys.executable, "main.py"], ["--paths.root", str(root), "--machine.threads", "1"]
    sample = ["--data.path", str(ROOT / "data" / "sample_tweets.csv")]
    subprocess.run([*main, "run", *where, *sample, *TINY.split()], cwd=ROOT, check=True, capture_output=True)
    command = [*main, "serve", *where, "--serve.port", "0", "--machine.device", "cpu"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[-1]
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 130, "the server did not end as it should"


def fuzz_api(seconds: float, seed: int) -> Line:
    """Run schemathesis for so many seconds, its output to standard error. Then the server must answer and be idle."""
    line, started = Line("the API, by schemathesis"), time.monotonic()
    command = [sys.executable, "-m", "schemathesis.cli", "run", "--no-color", "--generation-database", "none"]
    command += ["--seed", str(seed), "--max-time", str(max(1, round(seconds))), "--continue-on-failure"]
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as address:
        command += [f"{address}/openapi.json"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        print(done.stdout, file=sys.stderr)
        line.seconds = time.monotonic() - started
        counts = re.search(r"(\d+) generated(?:, (\d+) found)?", done.stdout)
        line.examples, found = (int(count or 0) for count in counts.groups()) if counts else (0, 0)
        line.failures = found or int(done.returncode != 0)
        with urllib.request.urlopen(f"{address}/metrics", timeout=20) as metrics:
            idle = re.findall(rb"^elon_engine_(?:running|waiting) (\d+)$", metrics.read(), re.MULTILINE)
        assert idle == [b"0", b"0"], f"requests are left behind: {idle}"
    return line


def main() -> int:
    """Run both halves, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of both halves together (5)")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up inputs (0)")
    chosen = parser.parse_args()
    half = 30.0 * chosen.minutes
    lines = [*fuzz_tests(half, chosen.seed), fuzz_api(half, chosen.seed)]
    print("| test | examples | failures | seconds |\n|---|---:|---:|---:|")
    print("\n".join(line.row() for line in sorted(lines, key=lambda line: line.name)))
    print(f"{sum(line.examples for line in lines):,} examples", file=sys.stderr)
    return int(any(line.failures for line in lines))


if __name__ == "__main__":
    sys.exit(main())
