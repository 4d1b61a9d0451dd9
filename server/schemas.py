"""The shapes of the API's requests, responses and errors: OpenAI's, as far as this model supports them.

An option that would change the text and is not supported is refused, not ignored. `null` always means the default.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.responses import JSONResponse, Response

from model.tokenizer import END

MODEL_NAME = "elon-transformer"
LAST_TOKEN = 50_255  # the end mark (50,256) is only allowed before a prompt, where the server puts one anyway
MAX_TEXTS = 20  # for one prompt, from the API and from the playground
MAX_PROMPTS = 16
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
FORMS = {  # what the fields with several forms must be
    "prompt": f"a string, a list of up to {MAX_PROMPTS} strings, a list of token ids (0 to 50255, and 50256 as the "
    f"first one only), or a list of up to {MAX_PROMPTS} such lists",
    "stop": "a string, or a list of at most 4 stop strings, each of at most 200 characters",
}


def integer(value: Any) -> Any:
    """3.0 as 3: to JSON both are the same number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def must_be_false(value: bool) -> bool:
    """Refuses true."""
    if value:
        raise ValueError("must be false")
    return value


def end_mark_first(ids: list[int]) -> list[int]:
    """Refuses an end mark anywhere but at the beginning."""
    if END in ids[1:]:
        raise ValueError("the end mark may only be the first id")
    return ids


def text_only(content: Any) -> Any:
    """Refuses what a message can hold in OpenAI's API and not here: pictures, sound, files."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise PydanticCustomError("content", "must be a string or a list of text parts")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            name = PARTS.get(str(kind), f"parts of type {kind!r}".encode("ascii", "backslashreplace").decode())
            raise PydanticCustomError("content", "{name} are not supported, only parts of type 'text'", {"name": name})
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("content", "a part of type 'text' must hold its text, a string")
    return content


WHOLE = BeforeValidator(integer)
AlwaysFalse = Annotated[bool, AfterValidator(must_be_false), Field(json_schema_extra={"const": False})]
TokenId = Annotated[int, Field(ge=0, le=END), WHOLE]
TokenIds = Annotated[
    list[TokenId],
    Field(
        min_length=1,
        json_schema_extra={
            "prefixItems": [{"type": "integer", "minimum": 0, "maximum": END}],
            "items": {"type": "integer", "minimum": 0, "maximum": LAST_TOKEN},
        },
    ),
    AfterValidator(end_mark_first),
]
StopString = Annotated[str, Field(max_length=200)]
PARTS = {  # OpenAI's types of the parts of a message
    "image_url": "pictures",
    "input_audio": "sound recordings",
    "file": "files",
}
UNSUPPORTED = {  # the error message for each
    "frequency_penalty": "not supported, use repetition_penalty",
    "presence_penalty": "not supported, use repetition_penalty",
    "logit_bias": "not supported, leave it out",
    "suffix": "not supported, the model only goes on with a prompt",
    "tools": "not supported, the model knows none",
    "response_format": "not supported, the model only writes text",
    "logprobs": "0 to 5 on /v1/completions, none on /v1/chat/completions",
    "top_logprobs": "not supported, /v1/completions has logprobs",
}


class Strict(BaseModel):
    """Refuses true for 1, "1" for 1, and NaN; ignores unknown fields."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """`include_usage`: the last chunk holds the numbers of tokens read and written."""

    include_usage: bool | None = None


class SamplingRequest(Strict):
    """The fields of both kinds of request; top_k, min_p and repetition_penalty are not OpenAI's."""

    model: str
    n: Annotated[int, Field(ge=1, le=MAX_TEXTS, description="texts for each prompt"), WHOLE] | None = None
    max_tokens: Annotated[int, Field(ge=1, description="cut to what the context holds"), WHOLE] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, description="below 0.01 is 0: always the likeliest")] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, description="0 and -1: off"), WHOLE] | None = None
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10, description="1: off")] | None = None
    seed: Annotated[int, Field(ge=-(2**53), le=2**53, description="+ 1 for the second text, ..."), WHOLE] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    user: Annotated[str, Field(description="ignored")] | None = None


class CompletionRequest(SamplingRequest):
    """Continue a prompt (text or GPT-2 token ids), or several."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=0, description="0: none, to score a prompt"), WHOLE] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5, description="of the model, at temperature 1"), WHOLE] | None = None
    echo: bool | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None
    best_of: (
        Annotated[int, Field(ge=1, le=MAX_TEXTS, description="write so many, send the n best; not with stream"), WHOLE]
        | None
    ) = None


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str | list[TextPart] | None, BeforeValidator(text_only)] = None


class TextFormat(Strict):
    """The only supported response format."""

    type: Literal["text"]


class ChatRequest(SamplingRequest):
    """The model was not trained to chat: it continues the last user message and ignores the others."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    logprobs: AlwaysFalse | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0), WHOLE] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    response_format: TextFormat | None = None


class Usage(BaseModel):
    """Tokens read and written, end marks included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Logprobs(BaseModel):
    """Natural logs of the model's probabilities at temperature 1, token by token; `text_offset` counts characters.

    An end mark that the model wrote is the last token; one that the prompt begins with is the first and has null.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(BaseModel):
    """One text; finish_reason is "stop" if it ended by itself or at a stop string, "length" if it was cut off."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """The response of /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Reply(BaseModel):
    """The message that the model wrote."""

    role: Literal["assistant"]
    content: str


class ChatChoice(BaseModel):
    """One text of a chat completion."""

    index: int
    message: Reply
    logprobs: None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """The response of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ModelInfo(BaseModel):
    """The served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """A list of that one model."""

    object: Literal["list"]
    data: list[ModelInfo]


class Health(BaseModel):
    """The server is up."""

    status: Literal["ok"]


class ErrorDetail(BaseModel):
    """What went wrong, where, and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorContent(BaseModel):
    """OpenAI's error object."""

    error: ErrorDetail


class ApiError(Exception):
    """An error response.

    Args:
        status: of HTTP.
        message: what went wrong and what to do, in one line.
        param: the field of the request that is wrong.
        code: OpenAI's name of the error, or ours.
        headers: of the response.
    """

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
        kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        message = message.encode("utf-8", "backslashreplace").decode("utf-8")  # it may quote half a surrogate pair
        self.content = ErrorContent(error=ErrorDetail(message=message, type=kind, param=param, code=code))

    def response(self) -> Response:
        """The response to send."""
        return JSONResponse(self.content.model_dump(), status_code=self.status, headers=self.headers)


def validation_error(problems: Sequence[Any]) -> ApiError:
    """The ApiError for the first of the problems that pydantic found in a body."""
    first = problems[0]
    where = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}")
    if not where:
        return ApiError(400, "the body must be a JSON object, sent with Content-Type: application/json")
    name = where[0]
    if name in FORMS and first["type"] != "missing":
        return ApiError(400, f"{name} must be {FORMS[name]}", param=name)
    if name in UNSUPPORTED:
        return ApiError(400, f"{name}: {UNSUPPORTED[name]}", param=name)
    place = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in where[1:]) if name == "messages" else ""
    return ApiError(400, f"{name}{place}: {first['msg']}", param=name)
