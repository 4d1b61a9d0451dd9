"""The best of several texts: by the model's own scores, no copy, and nothing that nobody wants to see."""

import copy
from dataclasses import replace

import pytest
import torch

from config.schema import Config, GenerateConfig, UserError
from generate.best_of import MOST, TWEET, Sample, best_first, fit, next_candidates
from generate.copies import CopyCheck
from generate.drafts import Draft, start, write
from generate.generate import generate
from model.checkpoint import Bundle
from model.tokenizer import END
from server.best_text import BestText
from server.engine import Engine, QueueFull
from tests.serving import endless, until

Trained = tuple[Config, Bundle]


def drafts_of(bundle: Bundle, prompt: str, settings: GenerateConfig, seed: int, numbers: range) -> list[Draft]:
    """The candidates of these numbers, each written alone."""
    drafts = [start(bundle, prompt, settings, seed, candidate=number) for number in numbers]
    for draft in drafts:
        for _ in write(bundle, [draft]):
            pass
    return drafts


@torch.no_grad()
def mean_logprob(bundle: Bundle, draft: Draft) -> float:
    """The slow way: the whole text through the plain model at once, over all 50,257 tokens."""
    ids = [END, *draft.ids, *draft.new]
    scores = bundle.vocabulary.log_probs(bundle.model(bundle.vocabulary.from_gpt2(ids[:-1])[None])[0])
    of_new = [float(scores[place - 1, ids[place]]) for place in range(1 + len(draft.ids), len(ids))]
    return sum(of_new) / len(of_new)


def decoded(bundle: Bundle, draft: Draft) -> str:
    """What was written after the prompt, without half characters."""
    return bundle.tokenizer.decode([index for index in draft.new if index != END]).replace("\ufffd", "")


def likes(bundle: Bundle, text: str, much: float) -> Bundle:
    """The same model, with a larger bias for the tokens of a text."""
    other = copy.deepcopy(bundle.model)
    with torch.no_grad():
        assert other.head_bias is not None
        other.head_bias[bundle.vocabulary.from_gpt2(bundle.tokenizer.encode(text))] += much
    return replace(bundle, model=other)


def made(text: str, logprob: float, *, novel: bool | None = True, prompt: str = "") -> Sample:
    """A sample with this text and this mean log-probability."""
    return Sample(prompt, text, [], "stop", 5, novel, 0, logprob)


@pytest.mark.parametrize("temperature", [0.8, 1.3])
def test_the_likeliest_candidate_is_kept(trained: Trained, temperature: float) -> None:
    config, bundle = trained
    settings = replace(config.generate, num_samples=1, best_of=4, temperature=temperature, top_k=40)
    places = set()
    for seed in range(25):
        for prompt in ("", "The van"):
            drafts = drafts_of(bundle, prompt, settings, seed, range(4))
            scores = [mean_logprob(bundle, draft) for draft in drafts]
            for draft, score in zip(drafts, scores, strict=True):  # counted while it was written, beside no other text
                assert draft.logprob / len(draft.new) == pytest.approx(score, abs=1e-4)
            texts = [prompt + decoded(bundle, draft) for draft in drafts]
            good = [
                any(map(str.isalpha, text))
                and not text.startswith(" ")
                and len(text) <= 280
                and len([word for word in text.removeprefix(prompt).split() if any(map(str.isalnum, word))]) >= 3
                for text in texts
            ]
            sample = generate(bundle, [prompt], replace(settings, seed=seed))[0]
            if any(good):
                best = max((place for place in range(4) if good[place]), key=lambda place: scores[place])
                assert sample.text == texts[best]
                assert sample.mean_logprob == pytest.approx(scores[best], abs=1e-4)
                places.add(best)
    assert places == {0, 1, 2, 3}


def test_the_same_seed_gives_the_same_tweets(trained: Trained) -> None:
    config, bundle = trained
    settings = replace(config.generate, num_samples=3, seed=7, best_of=3)
    together = generate(bundle, ["Mars", "Biscuit is"], settings)
    assert together == generate(bundle, ["Mars", "Biscuit is"], settings)
    for sample in together:
        assert generate(bundle, [sample.prompt], replace(settings, num_samples=1, seed=sample.seed)) == [sample]
    assert [sample.seed for sample in together] == [7, 8, 9] * 2


def test_best_of_one_is_the_first_candidate_and_counts_nothing(trained: Trained) -> None:
    config, bundle = trained
    settings = replace(config.generate, num_samples=20, best_of=1)
    raw = generate(bundle, ["Mars"], replace(settings, best_of=4), raw=True)
    assert generate(bundle, ["Mars"], settings) == [fit(sample) for sample in raw]
    assert all(sample.mean_logprob is None for sample in raw)
    for best_of in (0, 21):
        with pytest.raises(UserError, match=r"generate\.best_of"):
            replace(config.generate, best_of=best_of)


def test_copies_are_passed_over(trained: Trained) -> None:
    config, bundle = trained
    settings = replace(config.generate, num_samples=10, best_of=4)
    best = generate(bundle, ["The van"], settings)
    copies = CopyCheck([sample.text for sample in best])
    others = generate(bundle, ["The van"], settings, copies)
    assert all(sample.novel for sample in others)
    assert all(other.text != sample.text for other, sample in zip(others, best, strict=True))


@pytest.mark.parametrize(
    "better, worse",
    [
        (made("One two three.", -3.0), made("One two.", -1.0)),  # three words
        (made("One two.", -3.0), made("One two three.", -1.0, novel=False)),  # no copy
        (made("One two three.", -3.0, novel=False), made("x" * 281, -1.0)),
        (made("One.", -3.0), made(" One two three.", -1.0)),
        (made("a" * 281, -3.0), made("123 456 789", -1.0)),
        (made("One two three.", -1.0), made("Three two one.", -2.0)),
        (made("One two three.", -1.0, novel=None), made("Three two one.", -2.0)),  # nothing known of copies
        (
            made("It is as red as Mars.", -3.0, prompt="It is"),
            made("It is red now.", -1.0, prompt="It is"),
        ),  # its own words
        (made("我们要去火星。", -3.0), made("我们去火星。", -1.0)),  # a character is half a word
    ],
)
def test_what_counts_before_the_score(better: Sample, worse: Sample) -> None:
    assert best_first([worse, better]) == best_first([better, worse]) == [better, worse]


def test_what_people_see_fits_a_tweet() -> None:
    long = made("word " * 70, -1.0)
    shown = fit(long)
    assert len(shown.text) <= TWEET and shown.text.split() == ["word"] * 56 and shown.finish_reason == "length"
    assert len(fit(made("x" * 300, -1.0)).text) == TWEET  # no space to cut at
    assert fit(made("  Mars is.", -1.0)).text == "Mars is."
    given = made(" Mars" * 80, -1.0, prompt=" Mars" * 80)
    assert fit(given) == given  # somebody asked for it
    assert fit(made("a b c", -1.0)) == made("a b c", -1.0)


def test_texts_that_never_end_are_cut(trained: Trained) -> None:
    config, bundle = trained
    settings = replace(config.generate, num_samples=10, best_of=2, max_new_tokens=110)
    model = endless(bundle)
    raw = [sample.text for sample in generate(model, [""], settings, raw=True)]
    assert sum(len(text) > TWEET for text in raw) > 5
    for sample in generate(model, [""], settings):
        assert len(sample.text) <= TWEET and sample.finish_reason == "length"


def test_a_text_without_a_letter_is_written_again(trained: Trained) -> None:
    config, bundle = trained
    model, settings = likes(bundle, "!", 5.0), replace(config.generate, num_samples=40, best_of=1, max_new_tokens=4)
    raw = generate(model, [""], settings, raw=True)
    assert sum(not sample.has_letter for sample in raw) > 10
    shown = generate(model, [""], settings)
    assert sum(sample.has_letter for sample in shown) > sum(sample.has_letter for sample in raw) + 10
    for first, sample in zip(raw, shown, strict=True):
        assert not first.has_letter or sample == fit(first)  # the others are as they were
    with Engine(model, None, width=8, queue=100) as engine:  # and so it is in the playground
        texts = [BestText(engine, "", settings, seed=seed) for seed in range(40)]
        assert [text.result(20) for text in texts] == shown
        assert any(len(text.candidates) > 1 for text in texts)


def test_how_many_candidates_are_written(trained: Trained) -> None:
    settings = replace(trained[0].generate, best_of=5)
    silent, spoken = made("!!!", -1.0), made("Yes.", -1.0)
    assert list(next_candidates(settings, [])) == [0, 1, 2, 3, 4]
    assert list(next_candidates(settings, [silent] * 4 + [spoken])) == []
    written: list[Sample] = []
    while numbers := next_candidates(settings, written):
        assert list(numbers) == list(range(len(written), numbers.stop))
        written += [silent] * len(numbers)
    assert len(written) == MOST
    greedy = replace(settings, temperature=0.0)  # all would be the same
    assert list(next_candidates(greedy, [])) == [0] and not next_candidates(greedy, [silent])


def test_the_engine_keeps_the_one_that_generate_keeps(trained: Trained) -> None:
    config, bundle = trained
    settings = replace(config.generate, num_samples=8, best_of=4, seed=3)
    copies = CopyCheck([text.text for text in generate(bundle, ["Mars"], settings)])
    expected = generate(bundle, ["Mars"], settings, copies)
    with Engine(bundle, copies, width=6, queue=100) as engine:
        texts = [BestText(engine, "Mars", settings, seed=3 + number) for number in range(8)]
        heard: list[object] = []
        texts[0].listen(heard.append)
        assert [text.result(20) for text in texts] == expected
        assert heard.count(None) == 1 and heard[-1] is None
        late: list[object] = []
        texts[0].listen(late.append)
        assert late == [None] and texts[0].candidates_done == 4


def test_a_best_text_gives_its_places_up(trained: Trained) -> None:
    config, bundle = trained
    settings = replace(config.generate, best_of=4, max_new_tokens=100)
    with Engine(endless(bundle), None, width=4, queue=3) as engine:
        text = BestText(engine, "Mars", settings, seed=0)
        with pytest.raises(QueueFull):
            BestText(engine, "Mars", settings, seed=1)  # one of its four candidates has no place
        until(lambda: engine.stats()["running"] == 4)
        assert engine.stats()["waiting"] == 0
        text.cancel()
        assert text.result(10).finish_reason == "cancelled"
        until(lambda: engine.stats()["running"] == 0)
        assert len(text.candidates) == 4  # no more are written


def test_an_error_of_the_engine_is_handed_on(trained: Trained) -> None:
    config, bundle = trained
    broken = copy.deepcopy(bundle.model)
    broken.wpe = torch.nn.Embedding(1, broken.config.n_embd)  # it knows the first position only
    with Engine(replace(bundle, model=broken), None, width=8, queue=8) as engine:
        text = BestText(engine, "Mars", replace(config.generate, best_of=4), seed=0)
        with pytest.raises(IndexError):
            text.result(10)
