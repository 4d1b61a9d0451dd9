"""The API, through OpenAI's own client and against a real server; and through a fuzzer that reads its description."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from openai import OpenAI

from config.schema import Config
from generate.generate import generate
from model.checkpoint import Bundle
from model.tokenizer import END, END_TEXT
from server.api import create_api
from server.engine import Engine
from server.schemas import MODEL_NAME
from tests.serving import endless, served, serving, until

Trained = tuple[Config, Bundle]
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "4")  # of each route and phase


@pytest.fixture(scope="module")
def address(trained: Trained) -> Iterator[str]:
    with serving(trained[1], timeout_seconds=20.0) as (address, _):
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=20) as client:
        yield client


def ask(client: OpenAI, prompt: Any, **more: Any) -> Any:
    return client.completions.create(model=MODEL_NAME, prompt=prompt, **more)


def test_a_completion_is_what_generate_writes(trained: Trained, client: OpenAI) -> None:
    bundle = trained[1]
    answer = ask(client, "The van", seed=4)
    expected = generate(bundle, ["The van"], replace(served().generate, seed=4, num_samples=1), raw=True)[0]
    choice = answer.choices[0]
    assert ("The van" + choice.text, choice.finish_reason) == (expected.text, expected.finish_reason)
    assert answer.object == "text_completion" and answer.model == MODEL_NAME and answer.id.startswith("cmpl-")
    read = 1 + len(bundle.tokenizer.encode("The van"))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (read, expected.tokens)
    assert answer.usage.total_tokens == read + expected.tokens
    assert ask(client, "The van", seed=4).choices[0].text == choice.text
    assert ask(client, "The van", seed=5).choices[0].text != choice.text


def test_best_of_sends_the_likeliest(trained: Trained, client: OpenAI) -> None:
    """As OpenAI's: best_of are written, the n with the highest mean log-probability are sent."""
    bundle, how = trained[1], {"seed": 3, "max_tokens": 12, "temperature": 0.9, "logprobs": 0}
    settings = replace(served().generate, num_samples=1, max_new_tokens=12, temperature=0.9)
    best = ask(client, ["Mars", "The van"], best_of=6, **how)
    for prompt, choice in zip(("Mars", "The van"), best.choices, strict=True):
        assert prompt + choice.text == generate(bundle, [prompt], replace(settings, seed=3, best_of=6))[0].text
    two = ask(client, ["Mars", "The van"], best_of=6, n=2, **how)
    all_six = ask(client, ["Mars", "The van"], best_of=6, n=5, **how)
    means = [sum(choice.logprobs.token_logprobs) / len(choice.logprobs.tokens) for choice in all_six.choices]
    assert len(means) == 10 and len({choice.text for choice in all_six.choices}) == 10
    for first in (0, 5):  # texts of three words or more come first
        texts = [choice.text.split() for choice in all_six.choices[first : first + 5]]
        short = [sum(any(map(str.isalnum, word)) for word in words) < 3 for words in texts]
        order = list(zip(short, [-mean for mean in means[first : first + 5]], strict=True))
        assert order == sorted(order)
    assert [choice.index for choice in two.choices] == [0, 1, 2, 3]
    expected = [all_six.choices[place].text for place in (0, 1, 5, 6)]
    assert [choice.text for choice in two.choices] == expected
    assert [two.choices[place].text for place in (0, 2)] == [choice.text for choice in best.choices]
    assert best.usage == two.usage == all_six.usage  # all six are paid for
    assert best.usage.completion_tokens > sum(len(choice.logprobs.tokens) for choice in all_six.choices)
    plain, same = (ask(client, "Mars", n=3, seed=3, max_tokens=12, **more) for more in ({}, {"best_of": 3}))
    assert [choice.text for choice in plain.choices] == [choice.text for choice in same.choices]  # nothing to choose


def test_several_choices_and_prompts(client: OpenAI) -> None:
    answer = ask(client, ["Mars", "The van"], n=3, seed=10, max_tokens=8, temperature=1.5)
    assert [choice.index for choice in answer.choices] == list(range(6))
    for number, choice in enumerate(answer.choices):
        single = ask(client, ("Mars", "The van")[number // 3], seed=10 + number % 3, max_tokens=8, temperature=1.5)
        assert single.choices[0].text == choice.text
    assert len({choice.text for choice in answer.choices}) == 6


def test_token_ids(trained: Trained, client: OpenAI) -> None:
    ids = trained[1].tokenizer.encode("The van is")
    text = ask(client, "The van is", seed=1).choices[0].text
    assert ask(client, ids, seed=1).choices[0].text == text
    assert [choice.text for choice in ask(client, [ids, ids], seed=1).choices] == [text, text]


def test_streams_are_the_same_text(client: OpenAI) -> None:
    for seed in range(5):
        asked = {"seed": seed, "n": 2, "temperature": 1.8, "stop": ["zz", "ing"], "echo": seed % 2 == 0}
        whole = ask(client, "Mars", **asked)
        texts, reasons = ["", ""], ["", ""]
        chunks = list(ask(client, "Mars", stream=True, stream_options={"include_usage": True}, **asked))
        for chunk in chunks[:-1]:
            assert chunk.id == chunks[0].id and chunk.usage is None
            texts[chunk.choices[0].index] += chunk.choices[0].text
            reasons[chunk.choices[0].index] += chunk.choices[0].finish_reason or ""
        assert texts == [choice.text for choice in whole.choices]
        assert reasons == [choice.finish_reason for choice in whole.choices]
        assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage


def test_server_sent_events_on_the_wire(http: httpx.Client) -> None:
    body = {"model": MODEL_NAME, "prompt": "🚀", "stream": True, "max_tokens": 3, "echo": True}
    answer = http.post("/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    objects = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert objects[0]["choices"][0]["text"] == "🚀" and all("usage" not in each for each in objects)


@torch.no_grad()
def test_log_probabilities_are_the_models(trained: Trained, client: OpenAI) -> None:
    bundle = trained[1]
    asked = {"seed": 0, "logprobs": 3, "max_tokens": 10, "temperature": 0.5, "echo": True}
    while (choice := ask(client, "The van", **asked).choices[0]).finish_reason != "stop" and asked["seed"] < 100:
        asked["seed"] += 1  # a text that ends
    scores = choice.logprobs
    assert choice.finish_reason == "stop" and scores.tokens.pop() == END_TEXT
    assert "".join(scores.tokens) == choice.text  # so there is no half character in it
    ids = [next(iter(bundle.tokenizer.encode(token))) for token in scores.tokens] + [END]
    scores.tokens.append(END_TEXT)
    rows = bundle.vocabulary.id_of[torch.tensor([END, *ids])]
    expected = bundle.vocabulary.log_probs(bundle.model(rows[None])[0])
    for place, index in enumerate(ids):
        assert scores.token_logprobs[place] == pytest.approx(float(expected[place, index]), abs=1e-4)
        top = scores.top_logprobs[place]
        likeliest = expected[place].topk(3).indices.tolist()
        best = {bundle.tokenizer.decode([i]) or END_TEXT: float(expected[place, i]) for i in likeliest}
        best[scores.tokens[place]] = float(expected[place, index])
        assert top == pytest.approx(best, abs=1e-4)
    offsets = [len("".join(scores.tokens[:place])) for place in range(len(ids))]
    assert scores.text_offset == offsets
    bare = ask(client, "The van", **{**asked, "echo": False}).choices[0]
    assert bare.logprobs.tokens == scores.tokens[-len(bare.logprobs.tokens) :] and bare.logprobs.text_offset[0] == 0
    only = ask(client, "The van", **{**asked, "logprobs": 0}).choices[0].logprobs
    assert [list(top) for top in only.top_logprobs] == [[token] for token in only.tokens]
    streamed = list(ask(client, "The van", stream=True, **asked))
    parts = [chunk.choices[0].logprobs for chunk in streamed]
    assert [token for part in parts for token in part.tokens] == scores.tokens
    assert [offset for part in parts for offset in part.text_offset] == offsets


def test_stop_strings_that_overlap(trained: Trained, client: OpenAI) -> None:
    for seed in range(50):  # until a text is long enough and repeats none of the stops
        text = ask(client, "The van", seed=seed, max_tokens=20).choices[0].text
        middle = len(text) // 2
        stops = [text[middle : middle + 5], text[middle + 2 : middle + 8], text[max(0, middle - 2) : middle + 9]]
        if len(text) >= 20 and all(text.count(stop) == 1 for stop in stops):
            break
    else:
        pytest.fail("no text will do")
    cut = ask(client, "The van", seed=seed, max_tokens=20, stop=stops).choices[0]
    assert cut.text == text[:middle] and cut.finish_reason == "stop"
    assert ask(client, "The van", seed=seed, max_tokens=20, stop=stops[1]).choices[0].text == text[: middle + 2]
    assert ask(client, "The van", seed=seed, max_tokens=20, stop=["", "never said"]).choices[0].text == text


def test_chat_goes_on_with_the_last_user_message(client: OpenAI) -> None:
    text = ask(client, "The van", seed=2).choices[0].text
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "The "}, {"type": "text", "text": "van"}]},
    ]
    answer = client.chat.completions.create(model=MODEL_NAME, messages=messages, seed=2, n=2)
    assert answer.choices[0].message.content == text and answer.choices[0].message.role == "assistant"
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    stream = client.chat.completions.create(model=MODEL_NAME, messages=messages, seed=2, stream=True)
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    short = client.chat.completions.create(model=MODEL_NAME, messages=messages, max_completion_tokens=2)
    assert short.usage is not None and short.usage.completion_tokens <= 2


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL_NAME]
    assert client.models.retrieve(MODEL_NAME).object == "model"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        client.completions.create(model="gpt-4", prompt="Hi")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"temperature": -0.1}, "temperature: Input should be greater than or equal to 0"),
        ({"temperature": 2.1}, "temperature: Input should be less than or equal to 2"),
        ({"temperature": "hot"}, "temperature: Input should be a valid number"),
        ({"top_p": 1.5}, "top_p: "),
        ({"n": 0}, "n: Input should be greater than or equal to 1"),
        ({"n": True}, "n: Input should be a valid integer"),
        ({"n": 1000}, "n: Input should be less than or equal to 20"),
        ({"max_tokens": -1}, "max_tokens: "),
        ({"max_tokens": 1.5}, "max_tokens: "),
        ({"seed": 2**64}, "seed: "),
        ({"logprobs": 6}, "logprobs: 0 to 5"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop must be a string, or a list of at most 4"),
        ({"stop": ["a", "b" * 201]}, "each of at most 200 characters"),
        ({"best_of": 0}, "best_of: Input should be greater than or equal to 1"),
        ({"best_of": 21}, "best_of: Input should be less than or equal to 20"),
        ({"best_of": 2, "n": 3}, "best_of is 2, but n is 3"),
        ({"best_of": 2, "stream": True}, "best_of can't be streamed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty: not supported, use repetition_penalty"),
        ({"suffix": "end"}, "suffix: not supported"),
        ({"extra_body": {"min_p": 1.0}}, "min_p: "),
        ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty: "),
        ({"extra_body": {"top_k": -2}}, "top_k: "),
        ({"prompt": " Mars" * 200}, "the prompt has 200 tokens, the context only 128"),
        ({"prompt": []}, "prompt must be a string"),
        ({"prompt": [464, 50256]}, "50256 as the first one only"),
        ({"prompt": [50257]}, "prompt must be a string"),
        ({"prompt": ["a", 1]}, "prompt must be a string"),
    ],
)
def test_wrong_values_are_refused_with_a_reason(client: OpenAI, more: dict[str, Any], reason: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **{"prompt": "Hi", **more})
    assert reason in caught.value.message and caught.value.param in [*more, *more.get("extra_body", ())]
    assert caught.value.type == "invalid_request_error"


def test_odd_but_allowed_values(client: OpenAI) -> None:
    greedy = ask(client, "Mars", temperature=0, seed=1).choices[0].text
    assert ask(client, "Mars", temperature=1e-300, seed=2).choices[0].text == greedy
    assert ask(client, "Mars", top_p=0, seed=3).choices[0].text == greedy
    assert ask(client, "Mars", extra_body={"top_k": 1}, seed=4).choices[0].text == greedy
    assert ask(client, "Mars", max_tokens=10**30, extra_body={"top_k": -1, "unheard_of": 1}, user="me").choices


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"model": "elon-transformer", "prompt": "Hi", "temperature": NaN}', "finite"),
        (b'{"model": "elon-transformer", "prompt": "Hi", "temperature": -Infinity}', "finite"),
        (b'{"model": "elon-transformer", "prompt": "\\ud800"}', "not valid UTF-8"),
        (b'{"model": "\\ud800", "prompt": "Hi"}', "no model"),
        (b'{"model": "elon-transformer"}', "prompt: Field required"),
        (b'{"prompt": "Hi"}', "model: Field required"),
        (b"{", "no JSON"),
        (b"[" * 100_000, ""),
        (b'{"seed": ' + b"9" * 5000 + b"}", ""),
        (b"\xff\xfe", ""),
        (b"", ""),
        (b"null", "JSON object"),
        (b'"Hi"', "JSON object"),
    ],
    ids=range(13),
)
def test_broken_bodies(http: httpx.Client, body: bytes, reason: str) -> None:
    answer = http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code in (400, 404) and reason in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_every_error_is_openais(http: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/health", 405),
        ("QUERY", "/health", 405),
    ):
        answer = http.request(method, path)
        assert answer.status_code == status and path in answer.json()["error"]["message"]
        assert ("allow" in answer.headers) == (status == 405)
    for content in (b"x" * 300_000, iter([b"x" * 100_000] * 3)):  # the second has no Content-Length
        answer = http.post("/v1/completions", content=content)
        assert answer.status_code == 413 and "256 kB" in answer.json()["error"]["message"]
    answer = http.get("/health", headers={"host": "evil.example:80"})
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "host_not_allowed"
    assert http.get("/health", headers={"host": "localhost:1"}).json() == {"status": "ok"}
    assert "access-control-allow-origin" not in http.get("/health", headers={"origin": "http://evil.example"}).headers


def test_the_key_and_the_queue(trained: Trained) -> None:
    with (
        serving(endless(trained[1]), key="s3cret", width=1, queue=1) as (address, engine),
        OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0) as stranger,
        OpenAI(base_url=f"{address}/v1", api_key="s3cret", max_retries=0) as friend,
    ):
        with pytest.raises(openai.AuthenticationError, match="Authorization: Bearer KEY"):
            ask(stranger, "Hi")
        assert httpx.get(f"{address}/metrics").status_code == 401 and httpx.get(f"{address}/health").status_code == 200
        assert len(friend.models.list().data) == 1
        with pytest.raises(openai.RateLimitError) as caught:
            ask(friend, "Hi", n=3)
        assert caught.value.response.headers["retry-after"] == "1" and caught.value.code == "queue_full"
        until(lambda: engine.stats()["running"] + engine.stats()["waiting"] == 0)  # of n=3, none is left behind
        assert ask(friend, "Hi", n=2, max_tokens=2).choices[1].finish_reason == "length"


def test_time_is_limited(trained: Trained) -> None:
    with (
        serving(endless(trained[1]), width=1, timeout_seconds=0.2, queue=50) as (address, engine),
        OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        prompts = [f"Number {number}" for number in range(16)]
        with pytest.raises(openai.InternalServerError, match=r"longer than 0\.2 seconds"):
            ask(client, prompts, n=3)
        until(lambda: engine.stats()["running"] + engine.stats()["waiting"] == 0)
        with pytest.raises(openai.APIError, match=r"longer than 0\.2 seconds"):
            list(ask(client, prompts, n=3, stream=True))
        until(lambda: engine.stats()["running"] + engine.stats()["waiting"] == 0)


def test_metrics_count(trained: Trained) -> None:
    with serving(trained[1]) as (address, _), httpx.Client(base_url=address) as http:
        for _ in range(3):
            assert http.post("/v1/completions", json={"model": MODEL_NAME, "prompt": "Hi"}).status_code == 200
        http.post("/v1/completions", json={})
        http.get("/v1/elsewhere")
        text = http.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['elon_http_requests_total{path="/v1/completions",status="200"}'] == "3"
    assert values['elon_http_requests_total{path="/v1/completions",status="400"}'] == "1"
    assert values['elon_http_requests_total{path="other",status="404"}'] == "1"
    assert values["elon_request_seconds_count"] == values['elon_request_seconds_bucket{le="+Inf"}'] == "4"
    assert values["elon_engine_requests_total"] == "3" and int(values["elon_engine_tokens_total"]) >= 3
    assert all(math.isfinite(float(value)) for value in values.values())


def test_something_broken_here_is_told_as_such(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.testclient import TestClient

    config = served()
    with Engine(trained[1], None, width=1, queue=1) as engine:
        app = create_api(engine, config.serve, config.generate)
        monkeypatch.setattr(engine, "stats", lambda: 1 / 0)
        with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
            answer = client.get("/metrics")
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"


@pytest.mark.slow
def test_the_description_is_honest(trained: Trained, tmp_path: Path) -> None:
    """schemathesis, as it runs by default: what it makes of /openapi.json, valid and invalid, sent to the server."""
    with serving(trained[1]) as (address, _):
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", "--no-color"]
        command += ["--seed", "1", "--max-examples", EXAMPLES, "--generation-database", "none"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Tested: 6" in done.stdout, done.stdout
