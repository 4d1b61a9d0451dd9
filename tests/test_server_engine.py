"""The engine: a text does not depend on who is served beside it, comes piece by piece, and gives its place up."""

import asyncio
import copy
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from config.schema import Config, UserError
from generate.copies import CopyCheck
from generate.drafts import DraftBatch, start
from generate.generate import generate
from model.checkpoint import Bundle
from model.tokenizer import END
from server.engine import Engine, QueueFull, stream_deltas
from server.streaming import StopBuffer
from tests.serving import endless, until

Trained = tuple[Config, Bundle]
LONG = 100


@pytest.fixture(scope="module")
def engine(trained: Trained) -> Iterator[Engine]:
    with Engine(trained[1], None, width=5, queue=100) as engine:
        yield engine


@pytest.fixture(scope="module")
def emoji(trained: Trained) -> Bundle:
    """A model that mostly writes bytes of emoji, in all orders, right and wrong ones."""
    bundle = trained[1]
    model = copy.deepcopy(bundle.model)
    parts = {index for symbol in "🚀🤣😂🔥♥é" for index in bundle.tokenizer.encode(" " + symbol + symbol)}
    rows = bundle.vocabulary.from_gpt2(sorted(parts))
    with torch.no_grad():
        assert model.head_bias is not None
        model.head_bias[rows[~bundle.vocabulary.is_shared[rows]]] += 9.0
    return replace(bundle, model=model)


def test_texts_are_those_of_generate_whoever_runs_beside_them(trained: Trained, engine: Engine) -> None:
    config, bundle = trained
    prompts = ["Mars is", "", "The van is a very long way from the launch site, and", "🚀"] * 4
    settings = [
        replace(
            config.generate,
            num_samples=1,
            seed=n,
            temperature=(0.0, 0.7, 1.0, 1.6)[n % 3],
            top_k=(0, 5, 40)[n % 3],
            top_p=(1.0, 0.9)[n % 2],
            min_p=(0.0, 0.05)[n // 8],
            repetition_penalty=(1.0, 1.3)[n % 2],
            max_new_tokens=5 + 5 * n,
        )
        for n in range(16)
    ]
    alone = [generate(bundle, [prompt], how, raw=True)[0] for prompt, how in zip(prompts, settings, strict=True)]
    requests = []
    for n, (prompt, how) in enumerate(zip(prompts, settings, strict=True)):
        requests.append(engine.submit(prompt, how, seed=n))
        time.sleep(0.002 * (n % 3))  # some come while others are being written
    together = [request.result(20) for request in requests]
    assert together == alone
    assert [request.draft.prompt.rstrip() + request.text for request in requests] == [sample.text for sample in alone]


@torch.no_grad()
def test_rows_that_join_and_leave_do_not_disturb_the_others(trained: Trained) -> None:
    """Logits of every row, at every step, equal those of the whole text without a cache."""
    config, bundle = trained
    batch, dice = DraftBatch(bundle), random.Random(3)
    how = replace(config.generate, temperature=1.0, top_p=1.0, max_new_tokens=12)
    for step in range(30):
        if step % 4 == 0:
            batch.join([start(bundle, "Mars " * dice.randint(0, 6), how, dice.randint(0, 99)) for _ in range(3)])
        for draft, logits in zip(batch.drafts, batch.logits, strict=True):
            rows = bundle.vocabulary.from_gpt2([END, *draft.ids, *draft.new])
            assert torch.allclose(logits, bundle.model(rows[None])[0, -1], atol=1e-4)
        batch.draw()
        batch.advance()


def test_token_ids_as_a_prompt_are_the_same_text(trained: Trained, engine: Engine) -> None:
    config, bundle = trained
    ids = bundle.tokenizer.encode("The van is")
    as_ids = engine.submit(ids, config.generate, seed=3).result(10)
    assert as_ids == engine.submit("The van is", config.generate, seed=3).result(10)


def test_pieces_are_whole_characters_and_join_to_the_text(trained: Trained, emoji: Bundle) -> None:
    config = trained[0]
    how = replace(config.generate, temperature=1.2, top_p=1.0)
    broken = 0
    with Engine(emoji, None, width=16, queue=100) as engine:
        requests = [engine.submit("", how, seed=seed) for seed in range(40)]
        for request in requests:
            pieces = list(request)
            sample = request.result(10)
            assert "".join(piece.text for piece in pieces) == sample.text == request.text
            assert "\ufffd" not in sample.text
            sample.text.encode("utf-8")  # no half surrogates either
            ids = [token.id for piece in pieces for token in piece.tokens]
            assert ids == sample.ids == [token.id for token in request.tokens]
            assert all(token.logprob is None for token in request.tokens)  # nobody asked
            broken += "\ufffd" in emoji.tokenizer.decode(sample.ids)
            expected = emoji.tokenizer.decode(sample.ids).replace("\ufffd", "")
            assert sample.text == expected
        assert broken > 10, "the model hardly ever tries to break one"
        assert sum(ord(character) > 0x1F000 for request in requests for character in request.text) > 100


def first_stop(text: str, stops: list[str]) -> str | None:
    """The text before the stop string that is complete first, found character by character."""
    for end in range(1, len(text) + 1):
        ends = [stop for stop in stops if text[:end].endswith(stop)]
        if ends:
            return text[: end - max(map(len, ends))]
    return None


def test_stop_strings_wherever_tokens_end(trained: Trained) -> None:
    config, bundle = trained
    how = replace(config.generate, temperature=1.0, num_samples=1, max_new_tokens=40)
    dice, stopped = random.Random(5), 0
    with Engine(endless(bundle), None, width=16, queue=100) as engine:
        whole = [engine.submit("Mars", how, seed=seed) for seed in range(30)]
        texts = [(request.result(10), request.text)[1] for request in whole]
        cases = []
        for seed, text in enumerate(texts):
            begins = [dice.randrange(len(text) - 12) for _ in range(3)]
            stops = [text[begin : begin + dice.randint(1, 9)] for begin in begins]
            stops.append(stops[0][1:] + "#")  # begins like something that comes, but never comes
            cases.append((seed, text, stops, engine.submit("Mars", how, seed=seed, stop=stops)))
        for seed, text, stops, request in cases:
            shown = ""
            for piece in request:
                shown += piece.text
                assert text.startswith(shown) and not any(stop in shown for stop in stops if stop)
            assert shown == request.text == first_stop(text, [stop for stop in stops if stop]), (seed, stops)
            sample = request.result(10)
            assert (sample.text, sample.finish_reason) == ("Mars" + shown, "stop")
            assert all(token.start < len(shown) for token in request.tokens)
            stopped += sample.tokens < 40
    assert stopped > 20


def test_what_may_become_a_stop_string_is_said_when_it_does_not(trained: Trained) -> None:
    tokenizer = trained[1].tokenizer
    writer = StopBuffer(tokenizer, ["aab", "bc"])
    said = []
    for index in tokenizer.encode("xaaa!"):
        piece = writer.push(index)
        said.append(piece.text if piece else "")
    assert "".join(said) == "xaaa!" and not writer.stopped
    end = StopBuffer(tokenizer, ["aab"])
    for letter in "aa":
        assert end.push(tokenizer.encode(letter)[0]) is None
    rest = end.flush()
    assert rest is not None and rest.text == "aa" and len(rest.tokens) == 2


@torch.no_grad()
def test_log_probabilities_are_the_models(trained: Trained, engine: Engine) -> None:
    config, bundle = trained
    how = replace(config.generate, temperature=1.5, top_k=20, repetition_penalty=1.4, max_new_tokens=12)
    request = engine.submit("The van", how, seed=2, logprobs=4, echo=True)
    beside = [engine.submit("Mars is far", how, seed=seed) for seed in range(3)]
    sample = request.result(10)
    rows = bundle.vocabulary.from_gpt2([END, *sample.ids])
    expected = bundle.vocabulary.log_probs(bundle.model(rows[None])[0])
    assert expected.exp().sum(-1).allclose(torch.ones(len(rows)), atol=1e-3)  # over all of GPT-2's tokens
    tokens = request.tokens
    written = sample.ids + [END] * (request.finish_reason == "stop")
    assert [token.id for token in tokens] == written and request.text == sample.text
    assert [token.start for token in tokens] == [
        len(bundle.tokenizer.decode(sample.ids[:n])) for n in range(len(tokens))
    ]
    for place, token in enumerate(tokens):
        assert token.logprob == pytest.approx(float(expected[place, token.id]), abs=1e-4)
        best = expected[place].topk(4)
        assert [score for _, score in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
    for other in beside:
        other.result(10)


def test_cancelling_frees_the_place(trained: Trained) -> None:
    config, bundle = trained
    how = replace(config.generate, max_new_tokens=LONG)
    with Engine(endless(bundle), None, width=1, queue=5) as engine:
        first, waiting, last = (engine.submit("", how, seed=seed) for seed in range(3))
        next(iter(first))
        waiting.cancel()
        assert waiting.result(1).finish_reason == "cancelled" and waiting.text == ""
        first.cancel()
        cut = first.result(5)
        assert cut.finish_reason == "cancelled" and 0 < cut.tokens < LONG
        assert last.result(10).finish_reason == "length"
        last.cancel()  # too late: nothing happens
        assert last.finish_reason == "length"
        stats = engine.stats()
        assert (stats["running"], stats["waiting"], stats["cancelled"], stats["requests"]) == (0, 0, 2, 3)
        assert stats["tokens"] == cut.tokens + LONG


def test_cancelling_at_any_moment_ends_the_request(trained: Trained) -> None:
    config, bundle = trained
    how = replace(config.generate, max_new_tokens=8)
    with Engine(bundle, None, width=4, queue=200) as engine:
        requests = [engine.submit("", how, seed=seed) for seed in range(60)]
        for number, request in enumerate(requests):
            if number % 3:
                time.sleep(0.001)
                request.cancel()
        assert all(request.result(10).finish_reason for request in requests)
        until(lambda: engine.stats()["running"] == 0)


def test_a_full_queue_and_long_prompts_are_refused(trained: Trained) -> None:
    config, bundle = trained
    with Engine(endless(bundle), None, width=2, queue=3) as engine:
        requests = [engine.submit("", config.generate, seed=seed) for seed in range(5)]
        with pytest.raises(QueueFull, match="try again"):
            engine.submit("", config.generate, seed=9)
        with pytest.raises(UserError, match="the context only"):
            engine.submit(" Mars" * 200, config.generate, seed=0)
        assert engine.stats()["refused"] == 1
        for request in requests:
            request.cancel()
        until(lambda: engine.stats()["running"] == 0)
        assert engine.submit("", config.generate, seed=9).result(10).finish_reason == "length"


def test_an_error_ends_those_it_meets_and_not_the_engine(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    config, bundle = trained
    draw = DraftBatch.draw

    def broken(self: DraftBatch) -> list:
        monkeypatch.setattr(DraftBatch, "draw", draw)
        raise RuntimeError("out of luck")

    with Engine(bundle, None, width=2, queue=3) as engine:
        monkeypatch.setattr(DraftBatch, "draw", broken)
        with pytest.raises(RuntimeError, match="out of luck"):
            engine.submit("", config.generate, seed=0).result(10)
        assert engine.submit("", config.generate, seed=0).result(10).finish_reason in ("stop", "length")


def test_asyncio_clients_cost_no_threads(trained: Trained, engine: Engine) -> None:
    config = trained[0]
    before = threading.active_count()

    async def client(seed: int) -> str:
        request = engine.submit("Mars", config.generate, seed=seed)
        return "".join([delta.text async for _, delta in stream_deltas([request]) if delta is not None])

    async def all_clients() -> list[str]:
        texts = asyncio.gather(*(client(seed) for seed in range(64)))
        await asyncio.sleep(0.01)
        assert threading.active_count() == before
        return await texts

    texts = asyncio.run(all_clients())
    assert texts[7] == engine.submit("Mars", config.generate, seed=7).result(10).text.removeprefix("Mars")

    async def merged() -> list[tuple[int, bool]]:
        requests = [engine.submit("Mars", config.generate, seed=seed) for seed in (1, 2)]
        return [(number, piece is None) async for number, piece in stream_deltas(requests)]

    ends = [number for number, ended in asyncio.run(merged()) if ended]
    assert sorted(ends) == [0, 1]


def test_closing_cancels_what_is_left(trained: Trained) -> None:
    config, bundle = trained
    engine = Engine(endless(bundle), None, width=1, queue=5)
    engine.start()
    requests = [engine.submit("", config.generate, seed=seed) for seed in range(3)]
    next(iter(requests[0]))
    engine.close()
    assert [request.result(1).finish_reason for request in requests] == ["cancelled"] * 3
    with pytest.raises(QueueFull):
        engine.submit("", config.generate, seed=0)


def test_copies_are_told(trained: Trained) -> None:
    config, bundle = trained
    text = "The van waits at the edge of the crater and hums a song"
    copies = CopyCheck([text])
    with Engine(bundle, copies, width=1, queue=1) as engine:
        assert engine.submit(text, config.generate, seed=0).result(10).novel is False
        assert engine.submit("Purple", config.generate, seed=0).result(10).novel is True
