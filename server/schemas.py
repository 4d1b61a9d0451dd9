"""What clients of the API may send, and what they get: OpenAI's shapes, as far as this model can fill them.

What can't be honoured is refused rather than ignored, where it would change the text. `null` always means the default.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MODEL_NAME = "elon-transformer"
LAST_TOKEN = 50_255  # the end mark after it stands before every prompt already


def whole(value: Any) -> Any:
    """JSON does not tell 3.0 from 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def off(value: bool) -> bool:
    """Only false will do."""
    if value:
        raise ValueError("must be false")
    return value


WHOLE = BeforeValidator(whole)
Off = Annotated[bool, AfterValidator(off), Field(json_schema_extra={"const": False})]
TokenId = Annotated[int, Field(ge=0, le=LAST_TOKEN), WHOLE]
StopString = Annotated[str, Field(max_length=200)]
UNSUPPORTED = {  # what is told to who asks for these
    "frequency_penalty": "not supported, use repetition_penalty",
    "presence_penalty": "not supported, use repetition_penalty",
    "logit_bias": "not supported, leave it out",
    "suffix": "not supported, the model only goes on with a prompt",
    "best_of": "not supported, ask for n texts and choose",
    "tools": "not supported, the model knows none",
    "response_format": "not supported, the model only writes text",
    "logprobs": "0 to 5 on /v1/completions, none on /v1/chat/completions",
    "top_logprobs": "not supported, /v1/completions has logprobs",
}


class Strict(BaseModel):
    """No true for 1, no "1" for 1, no NaN; fields that are not known are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """`include_usage`: a last chunk says how many tokens were read and written."""

    include_usage: bool | None = None


class SamplingRequest(Strict):
    """What both kinds of request share; top_k, min_p and repetition_penalty are additions to OpenAI's."""

    model: str
    n: Annotated[int, Field(ge=1, le=16, description="texts for each prompt"), WHOLE] | None = None
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
    """Go on with a prompt, as text or as GPT-2 token ids; or with several."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=16)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[list[TokenId]], Field(min_length=1, max_length=16)]
    )
    logprobs: Annotated[int, Field(ge=0, le=5, description="of the model, at temperature 1"), WHOLE] | None = None
    echo: bool | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None
    best_of: Annotated[int, Field(ge=1, le=1), WHOLE] | None = None


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None


class TextFormat(Strict):
    """The only form of an answer."""

    type: Literal["text"]


class ChatRequest(SamplingRequest):
    """The model was never taught to chat: it goes on with the last user's message, and looks at nothing else."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    logprobs: Off | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0), WHOLE] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    response_format: TextFormat | None = None


class Usage(BaseModel):
    """Tokens read and written, end marks counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Logprobs(BaseModel):
    """Natural logs of the model's probabilities at temperature 1, token by token; `text_offset` counts characters."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Choice(BaseModel):
    """A text: "stop" if it ended by itself or at a stop string, "length" if it was cut."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """The answer of /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Reply(BaseModel):
    """What the model wrote."""

    role: Literal["assistant"]
    content: str


class ChatChoice(BaseModel):
    """One reply."""

    index: int
    message: Reply
    logprobs: None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ModelCard(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(BaseModel):
    """The server is up."""

    status: Literal["ok"]


class ErrorDetail(BaseModel):
    """What went wrong, where, and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """OpenAI's error object."""

    error: ErrorDetail
