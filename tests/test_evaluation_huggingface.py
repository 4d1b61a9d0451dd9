"""evaluation/huggingface.py: figures against a direct computation, and messages about folders that can't be used."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from config.schema import Config, UserError
from evaluation import huggingface
from evaluation.huggingface import HuggingFace
from model import hub
from model.tokenizer import END, load_tokenizer
from tests.tiny_peer import make_model, make_peer
from utils.preprocess import Tweet

CPU = torch.device("cpu")
TWEETS = [
    Tweet("Hello there, Mars 🚀!", True),
    Tweet("This one was cut in the mid", False),
    Tweet("x", True),
    Tweet("A long one " + "that goes on and on, " * 6 + "and ends.", True),
]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GPT2LMHeadModel]:
    folder = tmp_path_factory.mktemp("peer")
    return folder, make_peer(folder, n_positions=16)  # 16: the long tweet takes several pieces


def direct(model: GPT2LMHeadModel, tweet: Tweet, context: int) -> tuple[list[float], list[float]]:
    """Nats of each token of one tweet, and the end's probability at each place; one piece at a time, in doubles."""
    ids = [END, *load_tokenizer().encode(tweet.text), *([END] if tweet.finished else [])]
    nats, ends = [], []
    for first in range(0, len(ids) - 1, context):
        piece = torch.tensor([ids[first : first + context + 1]])
        with torch.no_grad():
            log_probs = model.double()(piece[:, :-1]).logits[0].log_softmax(-1)
        nats += [-float(row[target]) for row, target in zip(log_probs, piece[0, 1:], strict=True)]
        ends += log_probs[:, END].exp().tolist()
    return nats, ends


def test_bits_per_byte_equal_a_direct_computation(peer: tuple[Path, GPT2LMHeadModel]) -> None:
    folder, model = peer
    scores, elsewhere = HuggingFace(str(folder), CPU).score(TWEETS)
    expected = [direct(model, tweet, 16) for tweet in TWEETS]
    assert scores.nats.tolist() == pytest.approx([sum(nats) for nats, _ in expected], rel=1e-5)
    assert scores.tokens.tolist() == [len(nats) for nats, _ in expected]
    total = sum(sum(nats) for nats, _ in expected) / math.log(2)
    assert scores.bits_per_byte == pytest.approx(total / sum(len(t.text.encode()) + 1 for t in TWEETS), rel=1e-5)
    ends = [nats[-1] if tweet.finished else math.nan for tweet, (nats, _) in zip(TWEETS, expected, strict=True)]
    assert scores.end_nats.tolist() == pytest.approx(ends, rel=1e-5, nan_ok=True)
    inside = [
        p
        for tweet, (_, chances) in zip(TWEETS, expected, strict=True)
        for p in chances[: len(chances) - tweet.finished]
    ]
    assert elsewhere == pytest.approx(sum(inside) / len(inside), rel=1e-5)


def test_facts(peer: tuple[Path, GPT2LMHeadModel]) -> None:
    folder, model = peer
    found = HuggingFace(str(folder), CPU)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.vocab_size == 50_257
    assert found.split_hash is None
    assert found.notes == ["its training data are unknown, so it may have seen these tweets"]


def test_writes_as_many_as_asked_and_leaves_the_random_state(
    peer: tuple[Path, GPT2LMHeadModel], settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface, "TEXTS_AT_ONCE", 4)
    found = HuggingFace(str(peer[0]), CPU)
    drawing = replace(settings().generate, max_new_tokens=4)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    written = found.write(6, drawing)
    assert torch.equal(before, torch.get_rng_state())
    assert len(written) == 6 and len({text for text, _ in written}) > 1
    assert written == found.write(6, drawing)
    assert written != found.write(6, replace(drawing, seed=5))
    greedy = found.write(2, replace(drawing, temperature=0.0))
    assert len(set(greedy)) == 1


def test_a_text_ends_at_its_first_end_mark(peer: tuple[Path, GPT2LMHeadModel]) -> None:
    found = HuggingFace(str(peer[0]), CPU)
    body = load_tokenizer().encode("It ends.\nHere")
    assert found.finish([*body, END, 5, 6]) == ("It ends. Here", True)
    assert found.finish(body) == ("It ends. Here", False)
    assert found.finish([END]) == ("", True)


def word_peer(folder: Path, words: list[str], *, lower: bool = False, newline: bool = True) -> Path:
    """A model whose tokenizer knows single characters only, and has no marks."""
    known = [*words, *(["\n"] if newline else [])]
    backend = Backend(models.BPE(vocab={word: i for i, word in enumerate(known)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    if lower:
        backend.normalizer = normalizers.Lowercase()
    make_model(folder, vocab_size=len(known))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    return folder


def test_without_end_mark_a_newline_stands_for_it(tmp_path: Path) -> None:
    found = HuggingFace(str(word_peer(tmp_path, list("abc "))), CPU)
    assert found.start == found.end == 4
    assert any("newline" in note for note in found.notes)
    assert found.encode([Tweet("ab c", True)]) == [[4, 0, 1, 3, 2, 4]]
    assert int(found.score([Tweet("ab c", True), Tweet("a", False)])[0].tokens.sum()) == 6


def test_a_tokenizer_that_changes_the_text_gives_a_note(tmp_path: Path) -> None:
    found = HuggingFace(str(word_peer(tmp_path, list("abc "), lower=True)), CPU)
    found.score([Tweet("AB", True), Tweet("a", True)])
    assert "its tokenizer changes 1 of 2 tweets, so its bits per byte look too good" in found.notes


def test_without_network_a_name_is_one_quick_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    with pytest.raises(UserError, match=r"nobody/nothing: neither a file or folder here.*can't be reached"):
        HuggingFace("nobody/nothing", CPU)


def test_the_hub_answers_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # the port that discards
    assert not hub.hub_answers()


def test_bad_folders_get_one_clear_line(tmp_path: Path, peer: tuple[Path, GPT2LMHeadModel]) -> None:
    bare, foreign, small, broken = (tmp_path / name for name in ("bare", "foreign", "small", "broken"))
    make_model(bare)
    foreign.mkdir()
    copytree(peer[0], small)
    make_model(small, vocab_size=100)
    copytree(peer[0], broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    mute = word_peer(tmp_path / "mute", list("abc "), newline=False)
    unknown = tmp_path / "unknown"
    copytree(peer[0], unknown)
    kept = {"model_type": "nonsense"}
    (unknown / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    said = {
        bare: "has no tokenizer",
        foreign: "no config.json",
        small: "do not belong together",
        broken: "no causal language model can be loaded",
        mute: "the end of a tweet",
        unknown: "can be loaded",
    }
    for folder, words in said.items():
        with pytest.raises(UserError, match=words) as error:
            HuggingFace(str(folder), CPU)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)
