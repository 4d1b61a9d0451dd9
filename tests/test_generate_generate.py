"""Writing tweets: greedy text equals a plain loop, the seed decides, every text says why it ended."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from config.schema import Config, UserError
from generate.generate import format_sample, generate, load_copy_check, stream
from model.checkpoint import Bundle
from model.tokenizer import END

Trained = tuple[Config, Bundle]


@torch.no_grad()
def plain_greedy(bundle: Bundle, prompt: str, limit: int) -> tuple[list[int], str]:
    """The slow way: the whole text through the model for every token."""
    ids = bundle.tokenizer.encode(prompt)
    for _ in range(limit):
        rows = bundle.vocabulary.id_of[torch.tensor([END, *ids])][None]
        scores = bundle.model(rows)[0, -1]
        scores[bundle.vocabulary.is_shared] = -torch.inf
        best = int(bundle.vocabulary.gpt2_ids[int(scores.argmax())])
        if best == END:
            return ids, "stop"
        ids.append(best)
    return ids, "length"


def test_greedy_text_equals_a_plain_loop(trained: Trained) -> None:
    config, bundle = trained
    settings = replace(config.generate, temperature=0.0, num_samples=1, max_new_tokens=12)
    prompts = ["Mars", "", "The van is", "🚀"]
    for sample, prompt in zip(generate(bundle, prompts, settings, raw=True), prompts, strict=True):
        assert (sample.ids, sample.finish_reason) == plain_greedy(bundle, prompt, 12)


def test_a_text_does_not_depend_on_its_neighbours(trained: Trained) -> None:
    config, bundle = trained
    settings = replace(config.generate, num_samples=3, seed=7)
    together = generate(bundle, ["Mars", "Biscuit is"], settings)
    for sample in together:
        alone = generate(bundle, [sample.prompt], replace(settings, num_samples=1, seed=sample.seed))[0]
        assert alone == sample
    tails = [sample.text.removeprefix(sample.prompt) for sample in together]
    assert len(set(tails[:3])) == len(set(tails[3:])) == 3  # other seeds, other texts
    assert tails[:3] != tails[3:]  # and other prompts go on in other ways


def test_streaming_gives_the_same_text(trained: Trained) -> None:
    config, bundle = trained
    for seed in range(40):  # some of them hold half a character
        whole = generate(bundle, ["Mars"], replace(config.generate, num_samples=1, seed=seed), raw=True)[0]
        assert "Mars" + "".join(stream(bundle, "Mars", config.generate, seed=seed)) == whole.text


def test_why_it_ended(trained: Trained) -> None:
    config, bundle = trained
    for sample in generate(bundle, [""], replace(config.generate, num_samples=30, max_new_tokens=6), raw=True):
        assert sample.tokens <= 6
        if sample.finish_reason == "stop":
            assert sample.tokens == len(sample.ids) + 1
        else:
            assert sample.finish_reason == "length" and sample.tokens == 6 == len(sample.ids)


def test_long_prompts_and_long_texts_fit_the_context(trained: Trained) -> None:
    config, bundle = trained
    context = bundle.model.config.block_size
    longest = " Mars" * (context - 2)
    settings = replace(config.generate, num_samples=2, max_new_tokens=500, temperature=1.5)
    samples = generate(bundle, [longest.strip(), "Hi"], settings, raw=True)
    assert all(len(sample.ids) <= context for sample in samples)
    with pytest.raises(UserError, match=f"the context only {context}: shorten"):
        generate(bundle, [longest + " Mars Mars"], settings)


@pytest.mark.parametrize("prompt", ["", " ", "🚀", "مرحبا", "e\u0301", "\x00", "<|endoftext|>", "Mars "])
def test_odd_prompts_give_a_sensible_text(trained: Trained, prompt: str) -> None:
    config, bundle = trained
    for sample in generate(bundle, [prompt], config.generate):
        assert sample.text.startswith(prompt.rstrip()) and "\ufffd" not in sample.text


def test_the_shared_row_and_penalties_are_respected(trained: Trained) -> None:
    config, bundle = trained
    settings = replace(config.generate, num_samples=20, temperature=3.0, top_p=1.0, repetition_penalty=1e9)
    for sample in generate(bundle, [""], settings, raw=True):
        assert not any(bundle.vocabulary.is_shared[bundle.vocabulary.id_of[index]] for index in sample.ids)
        assert len(set(sample.ids)) == len(sample.ids)  # nothing is ever said twice under such a penalty


def test_copies_are_told(trained: Trained, settings: Callable[..., Config], sample: Any) -> None:
    config, bundle = trained
    copies = load_copy_check(config.paths)
    assert copies is not None
    original = next(tweet.text for tweet in sample[1].train if len(tweet.text) > 100)
    quick = replace(config.generate, num_samples=1, max_new_tokens=3)
    written = generate(bundle, [original, "Purple teapots"], quick, copies)
    assert written[0].novel is False and "copied from training" in format_sample(written[0])
    assert written[1].novel is True
    assert load_copy_check(settings().paths) is None  # no tweets there
    assert generate(bundle, ["Mars"], quick)[0].novel is None
