"""OpenAI's error objects, for everything that can go wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from server.schemas import UNSUPPORTED, ErrorAnswer, ErrorDetail

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
PROMPT = "must be a string, a list of up to 16 strings, a list of token ids (0 to 50255), or a list of such lists"


class ApiError(Exception):
    """An answer other than the one hoped for."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        message = message.encode("utf-8", "backslashreplace").decode("utf-8")  # it may quote half a surrogate
        self.answer = ErrorAnswer(error=ErrorDetail(message=message, type=kind, param=param, code=code))

    def response(self) -> Response:
        """As HTTP."""
        return JSONResponse(self.answer.model_dump(), status_code=self.status, headers=self.headers)


def refused(problems: Sequence[Any]) -> ApiError:
    """The ApiError of what pydantic found wrong with a body: the first thing, in words."""
    first = problems[0]
    where = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}")
    if not where:
        return ApiError(400, "the body must be a JSON object, sent with Content-Type: application/json")
    name = where[0]
    if name == "prompt" and first["type"] != "missing":
        return ApiError(400, f"prompt {PROMPT}", param="prompt")
    if name in UNSUPPORTED:
        return ApiError(400, f"{name}: {UNSUPPORTED[name]}", param=name)
    return ApiError(400, f"{name}: {first['msg']}", param=name)
