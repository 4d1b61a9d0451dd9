"""The settings of the section `serve`."""

import re
from dataclasses import dataclass

from config.errors import require

ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#@*A-Z]+")  # as browsers send it: host names in small letters
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Where the server listens, and the limits for its clients."""

    host: str
    port: int
    api_key: str | None
    origins: list[str] | str | None
    width: int
    queue: int
    max_body_kb: int
    timeout_seconds: float

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOCAL_HOSTS

    @property
    def allowed_origins(self) -> list[str]:
        """The web pages in `origins`, as browsers send them in the header Origin; "*" stands for all."""
        return [self.origins] if isinstance(self.origins, str) else self.origins or []

    def __post_init__(self) -> None:
        require(self.host != "", "serve.host", self.host, "give 127.0.0.1 (this machine only) or 0.0.0.0 (everybody)")
        require(0 <= self.port <= 65535, "serve.port", self.port, "give 0 (any free one) to 65535")
        given = self.api_key is None or self.api_key.strip() == self.api_key != ""
        require(given, "serve.api_key", self.api_key, "give a secret without spaces around it, or leave it out")
        for origin in self.allowed_origins:
            fix = "give scheme://host or scheme://host:port and nothing after it, such as http://localhost:5173, or '*'"
            require(bool(ORIGIN.fullmatch(origin)), "serve.origins", origin, fix)
        require(self.queue >= 0, "serve.queue", self.queue, "give 0 (no request waits) or more")
        for name in ("width", "max_body_kb"):
            require(getattr(self, name) >= 1, f"serve.{name}", getattr(self, name), "give 1 or more")
        require(self.timeout_seconds > 0, "serve.timeout_seconds", self.timeout_seconds, "give a positive number")
