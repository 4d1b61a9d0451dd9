"""Counters for Prometheus, in its text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
PATHS = ("/v1/models", "/v1/completions", "/v1/chat/completions", "/health", "/metrics")  # others are "other"
HELP = {
    "running": ("gauge", "texts being written"),
    "waiting": ("gauge", "texts waiting for a place"),
    "requests": ("counter", "texts asked for"),
    "refused": ("counter", "texts refused because the queue was full"),
    "cancelled": ("counter", "texts cancelled before they ended"),
    "prompt_tokens": ("counter", "prompt tokens read"),
    "tokens": ("counter", "tokens written"),
}


class Metrics:
    """How many requests came, how they were answered, and how long that took."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def count(self, path: str, status: int, seconds: float) -> None:
        """Note an answer; status 0: the client left before there was one."""
        self.answers[path if path in PATHS else "other", status] += 1
        if path in ("/v1/completions", "/v1/chat/completions"):
            self.buckets[bisect_left(BUCKETS, seconds)] += 1
            self.seconds += seconds

    def text(self, stats: dict[str, int]) -> str:
        """Everything, with what the engine counted."""
        return "\n".join([*self.http_lines(), *engine_lines(stats)]) + "\n"

    def http_lines(self) -> Iterator[str]:
        """What was counted here."""
        yield "# HELP elon_http_requests_total answers by path and status\n# TYPE elon_http_requests_total counter"
        for (path, status), number in sorted(self.answers.items()):
            yield f'elon_http_requests_total{{path="{path}",status="{status}"}} {number}'
        yield "# HELP elon_request_seconds how long texts took, from request to last byte"
        yield "# TYPE elon_request_seconds histogram"
        total = 0
        for edge, number in zip([*map(str, BUCKETS), "+Inf"], self.buckets, strict=True):
            total += number
            yield f'elon_request_seconds_bucket{{le="{edge}"}} {total}'
        yield f"elon_request_seconds_sum {self.seconds:.6f}\nelon_request_seconds_count {total}"


def engine_lines(stats: dict[str, int]) -> Iterator[str]:
    """The engine's counts."""
    for name, (kind, help_text) in HELP.items():
        full = f"elon_engine_{name}" + ("_total" if kind == "counter" else "")
        yield f"# HELP {full} {help_text}\n# TYPE {full} {kind}\n{full} {stats[name]}"
