"""What real clients do beside the plain request: they score texts, ask with HEAD, write addresses carelessly, call from
a web page, and act on the code of an error."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from config.cli import parse
from config.schema import Config, UserError
from model.checkpoint import Bundle
from model.tokenizer import END, END_TEXT
from server.schemas import MODEL_NAME
from tests.serving import endless, serving
from web.serve import gradio_folder

Trained = tuple[Config, Bundle]
PAGE = "http://localhost:5173"
GET_PATHS = ("/health", "/metrics", "/v1/models", f"/v1/models/{MODEL_NAME}", "/openapi.json")


@pytest.fixture(scope="module")
def http(trained: Trained) -> Iterator[httpx.Client]:
    with serving(trained[1], timeout_seconds=20.0) as (address, _), httpx.Client(base_url=address, timeout=20) as http:
        yield http


def complete(http: httpx.Client, prompt: Any, **more: Any) -> Any:
    """The choices of a completion."""
    answer = http.post("/v1/completions", json={"model": MODEL_NAME, "prompt": prompt, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


def refused(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    """The error of a request that is refused with 400."""
    answer = http.post(
        path, content=json.dumps({"model": MODEL_NAME, **body}), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


@torch.no_grad()
def nats(bundle: Bundle, ids: list[int]) -> list[float]:
    """The log-probability of each of these GPT-2 ids after an end mark and the ids before it."""
    scores = bundle.vocabulary.log_probs(bundle.model(bundle.vocabulary.from_gpt2([END, *ids])[None])[0])
    return [float(scores[place, index]) for place, index in enumerate(ids)]


@pytest.mark.parametrize("prompt", ["The van is late", "Mars 🚀", " two  spaces ", "x", ""])
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_scored_and_nothing_is_written(
    trained: Trained, http: httpx.Client, prompt: str, stream: bool
) -> None:
    bundle = trained[1]
    body = {"model": MODEL_NAME, "prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 2}
    answer = http.post("/v1/completions", json={**body, "stream": stream})
    if stream:
        chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        choices = [chunk["choices"][0] for chunk in chunks]
    else:
        choices = answer.json()["choices"]
        ids = bundle.tokenizer.encode(prompt)
        assert answer.json()["usage"] == {
            "prompt_tokens": 1 + len(ids),
            "completion_tokens": 0,
            "total_tokens": 1 + len(ids),
        }
    assert choices[-1]["finish_reason"] == "length"
    assert "".join(choice["text"] for choice in choices) == prompt
    scored = [score for choice in choices for score in choice["logprobs"]["token_logprobs"]]
    assert scored == pytest.approx(nats(bundle, bundle.tokenizer.encode(prompt)), abs=1e-4)


def test_nothing_is_written_without_echo_either(http: httpx.Client) -> None:
    for choice in complete(http, ["Mars", "The van"], max_tokens=0, n=2):
        assert (choice["text"], choice["logprobs"], choice["finish_reason"]) == ("", None, "length")
    assert (
        "max_tokens"
        in refused(http, "/v1/chat/completions", messages=[{"role": "user", "content": "Hi"}], max_tokens=0)["message"]
    )


def test_texts_are_written_and_scored_side_by_side(trained: Trained) -> None:
    """One client scores while another one's text is written, on a server with few places."""
    with (
        serving(endless(trained[1]), width=2, timeout_seconds=20.0) as (address, engine),
        httpx.Client(base_url=address, timeout=20) as http,
        http.stream(
            "POST", "/v1/completions", json={"model": MODEL_NAME, "prompt": "Mars", "stream": True, "n": 2}
        ) as long,
    ):
        lines = long.iter_lines()
        next(lines)
        scores = complete(http, ["The van", "Mars"] * 8, max_tokens=0, echo=True, logprobs=0)
        assert [choice["text"] for choice in scores] == ["The van", "Mars"] * 8
        assert "data: [DONE]" in list(lines)
        assert engine.stats()["running"] == engine.stats()["waiting"] == 0


def test_the_end_mark_before_a_prompt(trained: Trained, http: httpx.Client) -> None:
    """lm-evaluation-harness begins a text that has no context with the end mark, and looks for its place."""
    bundle = trained[1]
    ids = bundle.tokenizer.encode("The van is late")
    marked, bare = complete(http, [[END, *ids], ids], max_tokens=0, echo=True, logprobs=1)
    assert marked["text"] == bare["text"] == "The van is late"
    assert marked["logprobs"]["tokens"] == [END_TEXT, *bare["logprobs"]["tokens"]]
    assert marked["logprobs"]["token_logprobs"] == [None, *bare["logprobs"]["token_logprobs"]]
    assert marked["logprobs"]["top_logprobs"][0] is None and marked["logprobs"]["text_offset"][:2] == [0, 0]
    assert complete(http, [END, *ids], seed=3)[0]["text"] == complete(http, ids, seed=3)[0]["text"]
    assert complete(http, [END], seed=3)[0]["text"] == complete(http, "", seed=3)[0]["text"]


def test_a_written_end_mark_is_a_token_with_a_probability(trained: Trained, http: httpx.Client) -> None:
    """lm-evaluation-harness asks for one token after the text and drops the last score: one must be there."""
    bundle = trained[1]
    for seed in range(40):
        choice = complete(http, "The van", max_tokens=30, seed=seed, logprobs=0)[0]
        tokens, scores = choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]
        assert (tokens[-1] == END_TEXT) == (choice["finish_reason"] == "stop")
        if choice["finish_reason"] == "stop":
            break
    else:
        pytest.fail("no text ended by itself")
    ids = bundle.tokenizer.encode("The van") + [
        index for token in tokens[:-1] for index in bundle.tokenizer.encode(token)
    ]
    assert scores[-1] == pytest.approx(nats(bundle, [*ids, END])[-1], abs=1e-4)
    prompts = [bundle.tokenizer.encode(text) for text in ("Mars is", "The van is late.", "!")]
    for prompt, choice in zip(
        prompts, complete(http, prompts, max_tokens=1, echo=True, logprobs=1, temperature=0), strict=True
    ):
        assert len(choice["logprobs"]["tokens"]) == len(prompt) + 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([{"type": "image_url", "image_url": {"url": "data:x"}}], "pictures are not supported"),
        (
            [{"type": "text", "text": "What is this?"}, {"type": "input_audio", "input_audio": {}}],
            "sound recordings are",
        ),
        ([{"type": "file", "file": {"file_id": "f"}}], "files are not supported"),
        ([{"type": "hologram"}], "parts of type 'hologram' are not supported"),
        ([{"type": ["text"]}], "not supported"),
        ([{"type": "text"}], "must hold its text"),
        (["Hi"], "only parts of type 'text'"),
        ({"type": "text", "text": "Hi"}, "must be a string or a list of text parts"),
        (7, "must be a string or a list of text parts"),
    ],
)
def test_parts_that_are_no_text_are_refused_as_such(http: httpx.Client, content: Any, reason: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    error = refused(http, "/v1/chat/completions", messages=messages)
    assert error["message"].startswith("messages[1].content: ") and reason in error["message"]
    assert (error["param"], error["code"]) == ("messages", None)


def test_other_mistakes_in_messages_say_where(http: httpx.Client) -> None:
    for message, where in (
        ({"role": "robot", "content": ""}, "messages[0].role: "),
        ({"content": ""}, "messages[0].role: "),
    ):
        assert refused(http, "/v1/chat/completions", messages=[message])["message"].startswith(where)
    wrong: tuple[Any, ...] = ([], None, "Hi")
    for messages in wrong:
        assert refused(http, "/v1/chat/completions", messages=messages)["message"].startswith("messages: ")


@pytest.mark.parametrize("stop", [list("abcde"), ["a", 1], 7, {"a": 1}, "x" * 201, [["a"]]])
def test_stops_that_are_refused_say_what_they_may_be(http: httpx.Client, stop: Any) -> None:
    for path, field in (
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user"}]}),
    ):
        error = refused(http, path, stop=stop, **field)
        assert "a list of at most 4 stop strings" in error["message"] and error["param"] == "stop"


def test_only_a_prompt_that_is_too_long_is_called_so(http: httpx.Client) -> None:
    for text, code in (("Mars " * 200, "context_length_exceeded"), ("\ud83d", None), ("half \udc00 a pair", None)):
        told = {
            "prompt": refused(http, "/v1/completions", prompt=text),
            "messages": refused(http, "/v1/chat/completions", messages=[{"role": "user", "content": text}]),
        }
        for param, error in told.items():
            assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
            assert ("this model's maximum context length is 128 tokens" in error["message"]) == (code is not None)
    for body in ({"prompt": "x", "temperature": 9}, {"prompt": [1, 2, -1]}, {"prompt": "x", "max_tokens": "many"}):
        assert refused(http, "/v1/completions", **body)["code"] is None


@pytest.mark.parametrize("path", GET_PATHS)
def test_head_is_get_without_the_body(http: httpx.Client, path: str) -> None:
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (200, b"") and get.content
    assert head.headers["content-type"] == get.headers["content-type"]
    assert path == "/metrics" or head.headers["content-length"] == get.headers["content-length"]
    assert http.delete(path).headers["allow"] == "GET, HEAD"


def test_head_of_what_is_not_there(http: httpx.Client) -> None:
    assert [http.head(path).status_code for path in ("/v1/nothing", "/v1/completions", "/v1/models/gpt-4")] == [
        404,
        405,
        404,
    ]
    assert http.get("/health").json() == {"status": "ok"}  # on the same connection: no body was left in it


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("/v1/models/", "/v1/models"),
        ("/v1//models", "/v1/models"),
        ("//v1/models", "/v1/models"),
        ("//v1///models//", "/v1/models"),
        (f"/v1/models/{MODEL_NAME}/", f"/v1/models/{MODEL_NAME}"),
        ("/health/", "/health"),
        ("//health", "/health"),
        ("/openapi.json/", "/openapi.json"),
    ],
)
def test_slashes_too_many(http: httpx.Client, path: str, same: str) -> None:
    address = str(http.base_url).rstrip("/")
    assert httpx.get(address + path).json() == http.get(same).json()


def test_slashes_too_many_in_what_is_posted(http: httpx.Client) -> None:
    address = str(http.base_url).rstrip("/")
    body = {"model": MODEL_NAME, "prompt": "Mars", "seed": 1}
    texts = [
        httpx.post(address + path, json=body).json()["choices"][0]["text"]
        for path in ("/v1/completions", "/v1//completions", "/v1/completions/", "//v1//completions//")
    ]
    assert len(set(texts)) == 1


def test_slashes_do_not_lead_around_the_key(trained: Trained) -> None:
    with serving(trained[1], key="s3cret") as (address, _):
        for path in ("/v1/models", "//v1/models", "/v1//models/", "///v1", "/v1/", "//metrics/", "/%761//models"):
            assert httpx.get(address + path).status_code == httpx.head(address + path).status_code == 401, path
        assert httpx.get(f"{address}/health/").status_code == 200


def preflight(address: str, origin: str, path: str = "/v1/chat/completions", method: str = "POST") -> httpx.Response:
    """What a browser sends before the request of a web page."""
    asked = {"access-control-request-method": method, "access-control-request-headers": "authorization,content-type"}
    return httpx.options(address + path, headers={"origin": origin, **asked})


def test_web_pages_are_refused_by_default_with_the_setting(http: httpx.Client) -> None:
    address = str(http.base_url).rstrip("/")
    answer = preflight(address, PAGE)
    assert answer.status_code == 403 and f"--serve.origins {PAGE}" in answer.json()["error"]["message"]
    get = httpx.get(f"{address}/v1/models", headers={"origin": PAGE})
    for headers in (answer.headers, get.headers):
        assert not [name for name in headers if name.startswith("access-control-allow")]
    assert httpx.options(f"{address}/v1/models").status_code == 405  # no preflight: just a wrong method


@pytest.mark.parametrize("origins", [[PAGE], [PAGE, "https://notes.example"], "*"])
def test_web_pages_that_are_allowed(trained: Trained, origins: list[str] | str) -> None:
    allowed = "*" if origins == "*" else PAGE
    with serving(trained[1], key="s3cret", origins=origins) as (address, _):
        for path in ("/v1/chat/completions", "/v1/completions/", "//v1//models"):
            answer = preflight(address, PAGE, path)
            assert (answer.status_code, answer.content) == (204, b"")
            assert answer.headers["access-control-allow-origin"] == allowed
            assert "POST" in answer.headers["access-control-allow-methods"]
            assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
        body = {"model": MODEL_NAME, "messages": [{"role": "user", "content": "Hi"}]}
        for key, stream, status in (("s3cret", False, 200), ("s3cret", True, 200), ("wrong", False, 401)):
            headers = {"origin": PAGE, "authorization": f"Bearer {key}"}
            answer = httpx.post(f"{address}/v1/chat/completions", json={**body, "stream": stream}, headers=headers)
            assert answer.status_code == status and answer.headers["access-control-allow-origin"] == allowed
        stranger = preflight(address, "https://evil.example")
        assert stranger.status_code == (204 if origins == "*" else 403)
        for near in (f"{PAGE}0", f"{PAGE}.evil.example", PAGE.replace("http", "https"), "null"):
            assert preflight(address, near).status_code == (204 if origins == "*" else 403)
        rebound = httpx.get(f"{address}/v1/models", headers={"host": "evil.example", "authorization": "Bearer s3cret"})
        assert rebound.status_code == 403


@pytest.mark.parametrize(
    "value", ["localhost:5173", f"{PAGE}/", f"{PAGE}/app", "HTTP://Localhost", "http://*.example", ""]
)
def test_origins_that_no_browser_sends(value: str) -> None:
    with pytest.raises(UserError, match=r"serve\.origins"):
        replace(parse("serve", [])[0].serve, origins=[value])


def test_origins_from_the_command_line() -> None:
    for flag, expected in (
        (PAGE, [PAGE]),
        (f'["{PAGE}", "https://a.example"]', [PAGE, "https://a.example"]),
        ("*", ["*"]),
    ):
        assert parse("serve", ["--serve.origins", flag])[0].serve.allowed_origins == expected
    assert parse("serve", [])[0].serve.allowed_origins == []


@pytest.mark.parametrize("host", ["elon.example", "192.168.1.7:7860", "[::2]", ""])
def test_a_host_name_that_is_refused_says_which_setting_allows_it(http: httpx.Client, host: str) -> None:
    answer = http.get("/health", headers={"host": host})
    assert answer.status_code == 403 and "--serve.host 0.0.0.0" in answer.json()["error"]["message"]


def test_that_setting_allows_it(trained: Trained) -> None:
    with serving(trained[1], host="0.0.0.0") as (address, _):
        assert httpx.get(f"{address}/health", headers={"host": "elon.example"}).status_code == 200


def test_the_playground_and_the_api_write_as_many_texts(trained: Trained, http: httpx.Client) -> None:
    from server.engine import Engine
    from web.app import call_in_event_loop, create_app

    with Engine(trained[1], None, width=1, queue=1) as engine:
        blocks = call_in_event_loop(lambda: create_app(engine, trained[0])).blocks.values()
    most = next(block.maximum for block in blocks if getattr(block, "label", "") == "Number of tweets")
    assert len(complete(http, "Mars", n=most, max_tokens=1)) == most
    assert refused(http, "/v1/completions", prompt="Mars", n=most + 1)["param"] == "n"


def test_gradio_gets_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    with gradio_folder():
        first = Path(os.environ["GRADIO_TEMP_DIR"])
        (first / "vibe_edit_history").mkdir()
        with pytest.MonkeyPatch.context() as other:
            other.delenv("GRADIO_TEMP_DIR")
            with gradio_folder():
                assert os.environ["GRADIO_TEMP_DIR"] != str(first)
    assert not first.exists() and "GRADIO_TEMP_DIR" not in os.environ
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "mine"))
    with gradio_folder():
        assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path / "mine") and (tmp_path / "mine").is_dir()
    (tmp_path / "file").write_text("")
    for wrong in ("file", "file/below"):
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / wrong))
        with pytest.raises(UserError, match="set it to a folder of yours, or unset it"), gradio_folder():
            pass


def test_scores_are_finite_json(http: httpx.Client) -> None:
    for choice in complete(http, ["", "🚀", "a\x00b", "\u202eabc"], max_tokens=0, echo=True, logprobs=5):
        assert all(math.isfinite(score) for score in choice["logprobs"]["token_logprobs"])
