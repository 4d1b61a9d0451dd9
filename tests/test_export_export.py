"""A Hugging Face folder: transformers alone loads it and says the same; and nothing is ever half-written."""

import hashlib
import json
import random
import resource
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPT2Tokenizer
from transformers.utils import logging

from config.cli import run_command
from config.schema import Config, UserError
from export.export import export
from export.stock import to_hugging_face, to_stock
from generate.generate import generate
from model.checkpoint import Bundle
from model.tokenizer import END, END_TEXT, packaged_files
from model.tracks import MODEL
from tests.scrambled import full_vocabulary, scrambled
from utils.preprocess import Corpus

logging.disable_progress_bar()
PROMPTS = ["", "The", "It is", "What if 🚀", "I don't", "On Mars,", "2+2 =", "Why", "New", "We're", "é", "This is the"]


def to_folder(bundle: Bundle, folder: Path, **settings: Any) -> Path:
    """Export to `folder` with these settings of the section `export`."""
    paths = replace(bundle.config.paths, root=str(folder.parent / "root"))
    chosen = replace(bundle.config.export, to="hf", output=str(folder), **settings)
    export(bundle, replace(bundle.config, export=chosen, paths=paths))
    return folder


@contextmanager
def no_network() -> Iterator[None]:
    """Any attempt to reach another machine fails the test."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was attempted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module")
def hard(trained: tuple[Config, Bundle]) -> Bundle:
    """A scrambled model of two layers."""
    return scrambled(trained[1], n_layer=2, n_embd=32, n_head=4, block_size=48)


@pytest.fixture(scope="module")
def folders(hard: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The scrambled model, exported over all tokens and over few."""
    root = tmp_path_factory.mktemp("export")
    return {kind: to_folder(hard, root / kind, vocabulary=kind) for kind in ("full", "rows")}


@pytest.fixture(scope="module")
def peer(folders: dict[str, Path]) -> tuple[Any, Any]:
    """What transformers makes of the full export, with no network."""
    with no_network():
        return AutoModelForCausalLM.from_pretrained(folders["full"]), AutoTokenizer.from_pretrained(folders["full"])


@torch.no_grad()
def ours_over_all(bundle: Bundle, ids: Tensor) -> Tensor:
    """Our log probabilities over GPT-2's tokens, (B, T, 50257)."""
    return bundle.vocabulary.log_probs(bundle.model(bundle.vocabulary.id_of[ids]))


@torch.no_grad()
def test_transformers_gives_the_same_probabilities(hard: Bundle, peer: tuple[Any, Any]) -> None:
    ids = torch.randint(50_257, (2, 48), generator=torch.Generator().manual_seed(1))
    ids[1] = hard.vocabulary.gpt2_ids[ids[1] % int((~hard.vocabulary.is_shared).sum())]
    theirs = peer[0](ids).logits.log_softmax(-1)
    assert isinstance(peer[0], GPT2LMHeadModel)
    assert theirs.shape[-1] == 50_257
    torch.testing.assert_close(theirs, ours_over_all(hard, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("output_bias", [True, False])
@torch.no_grad()
def test_a_row_for_every_token(trained: tuple[Config, Bundle], tmp_path: Path, output_bias: bool) -> None:
    bundle = scrambled(trained[1], vocabulary=full_vocabulary(), output_bias=output_bias, activation="relu")
    model = AutoModelForCausalLM.from_pretrained(to_folder(bundle, tmp_path / "out"))
    assert model.config.tie_word_embeddings is not output_bias
    ids = torch.randint(50_257, (2, 30))
    torch.testing.assert_close(model(ids).logits, bundle.model(ids), atol=1e-4, rtol=0)


def strings(corpus: Corpus) -> list[str]:
    """1,000 strings: tweets, and characters of all sorts thrown together."""
    rng = random.Random(0)
    letters = "abc XYZ  019.,!?'\"#@&\n\t\r-—…éßñ中文字🚀👩‍👩‍👧​\u00a0\u202e<|endoftext|>\U0001d49c"
    odd = ["".join(rng.choices(letters, k=rng.randint(0, 40))) for _ in range(400)]
    return [tweet.text for tweet in corpus.train[:600]] + odd


def test_transformers_cuts_text_as_we_do(
    hard: Bundle, peer: tuple[Any, Any], sample: tuple[Config, Corpus], tmp_path: Path
) -> None:
    for name, path in zip(("vocab.json", "merges.txt"), packaged_files(), strict=True):
        shutil.copy(path, tmp_path / name)
    stock = GPT2Tokenizer.from_pretrained(tmp_path)
    texts = strings(sample[1])
    assert len(texts) == 1_000
    ours = [hard.tokenizer.encode(text) for text in texts]
    assert peer[1](texts)["input_ids"] == stock(texts)["input_ids"] == ours
    assert peer[1](END_TEXT + "Mars")["input_ids"] == [END, *hard.tokenizer.encode("Mars")]
    assert peer[1].bos_token_id == peer[1].eos_token_id == END


def test_transformers_writes_the_same_text(hard: Bundle, peer: tuple[Any, Any]) -> None:
    model, tokenizer = peer
    settings = replace(hard.config.generate, temperature=0.0, num_samples=1, max_new_tokens=47)
    ours = generate(hard, PROMPTS, settings, raw=True)
    for prompt, sample in zip(PROMPTS, ours, strict=True):
        given = tokenizer(END_TEXT + prompt, return_tensors="pt")
        written = model.generate(**given, do_sample=False)[0].tolist()[1:]
        assert written[: len(sample.ids)] == sample.ids[: len(written)]
        assert len(written) >= 20 or written[-1] == END


def test_transformers_stops_at_the_end(trained: tuple[Config, Bundle], tmp_path: Path) -> None:
    config, bundle = trained
    folder = to_folder(bundle, tmp_path / "out")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    written = [model.generate()[0].tolist() for _ in range(20)]  # from nothing: it begins with the end mark
    context = config.model.block_size
    assert all(ids[0] == END and (ids[-1] == END or len(ids) == context) for ids in written)
    assert all(END not in ids[1:-1] for ids in written)
    assert sum(ids[-1] == END for ids in written) > 10
    samples = generate(bundle, PROMPTS, replace(config.generate, temperature=0.0, num_samples=1), raw=True)
    ended = [sample for sample in samples if sample.finish_reason == "stop"]
    assert ended
    for sample in ended:
        greedy = model.generate(**tokenizer(END_TEXT + sample.prompt, return_tensors="pt"), do_sample=False)
        assert greedy[0].tolist() == [END, *sample.ids, END]
        assert tokenizer.decode(greedy[0], skip_special_tokens=True) == sample.text


@torch.no_grad()
def test_the_small_vocabulary(hard: Bundle, folders: dict[str, Path], sample: tuple[Config, Corpus]) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders["rows"])
    tokenizer = AutoTokenizer.from_pretrained(folders["rows"])
    tokens = list(tokenizer.get_vocab())
    own = {hard.tokenizer.backend.id_to_token(index) for index in hard.vocabulary.gpt2_ids.tolist() if index >= 0}
    assert own < set(tokens)
    assert len(tokens) == len(tokenizer) == model.config.vocab_size < 10_000
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == len(tokens) - 1
    stock = hard.tokenizer.backend.get_vocab()
    spelled = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    ids = torch.tensor([stock[token] for token in spelled])  # GPT-2 id of each of its ids
    for tweet in sample[1].train[:300]:
        assert ids[tokenizer(tweet.text)["input_ids"]].tolist() == hard.tokenizer.encode(tweet.text)
    for text in strings(sample[1])[600:]:
        assert tokenizer.decode(tokenizer(text.replace(END_TEXT, ""))["input_ids"]) == text.replace(END_TEXT, "")
    given = torch.randint(len(ids), (1, 48))
    theirs, ours = model(given).logits.log_softmax(-1), ours_over_all(hard, ids[given])
    shared = hard.vocabulary.is_shared[hard.vocabulary.id_of]  # of GPT-2's tokens
    torch.testing.assert_close(theirs[..., ~shared[ids]], ours[..., ids[~shared[ids]]], atol=1e-4, rtol=0)
    for row in hard.vocabulary.is_shared.nonzero()[:, 0].tolist():  # the few share out what the many have
        few, many = (hard.vocabulary.id_of[which] == row for which in (ids, torch.arange(50_257)))
        torch.testing.assert_close(theirs[..., few].logsumexp(-1), ours[..., many].logsumexp(-1), atol=1e-3, rtol=0)


def test_names_are_those_of_transformers(hard: Bundle) -> None:
    shape = hard.model.config
    config = GPT2Config(vocab_size=50_257, n_positions=shape.block_size, n_embd=32, n_layer=2, n_head=4)
    expected = {name: value.shape for name, value in GPT2LMHeadModel(config).state_dict().items()}
    stock = to_stock(hard.model, hard.vocabulary, torch.arange(50_257))
    assert {name: value.shape for name, value in to_hugging_face(stock.tensors).items()} == expected


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow beyond `room` bytes: the system refuses the write, as it does on a full disk."""
    soft, hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard_limit))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard_limit))


@pytest.mark.parametrize("room", [0, 5_000, 1_000_000])
@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_a_failed_write_leaves_nothing(hard: Bundle, tmp_path: Path, to: Literal["hf", "gguf"], room: int) -> None:
    output = tmp_path / "out" / "model"
    chosen = replace(hard.config.export, to=to, output=str(output))
    with full_disk(room), pytest.raises(UserError, match=r"model could not be written \(.+\); nothing was left"):
        export(hard, replace(hard.config, export=chosen))
    assert list((tmp_path / "out").iterdir()) == []
    export(hard, replace(hard.config, export=chosen))  # and it works once there is room


def test_what_is_there_is_not_touched(hard: Bundle, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    for name in ("taken", "taken/mine.txt"):
        with pytest.raises(UserError, match="is there already, and not empty: give another"):
            to_folder(hard, tmp_path / name)
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["mine.txt"]
    assert (to_folder(hard, tmp_path / "empty") / "model.safetensors").is_file()


def test_the_command_tells_its_files(
    trained: tuple[Config, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--paths.root", trained[0].paths.root, "--export.output", str(tmp_path / "out"), "--json"]
    assert run_command("export", flags) == 0
    found = json.loads(capsys.readouterr().out)
    names = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    names |= {"special_tokens_map.json", "README.md", "elon_transformer.npz"}
    assert {Path(item["path"]).name for item in found["files"]} == names
    for item in found["files"]:
        content = Path(item["path"]).read_bytes()
        assert (item["bytes"], item["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert run_command("export", flags) == 1
    assert "is there already" in capsys.readouterr().err


def test_a_bad_checkpoint_is_one_line(
    trained: tuple[Config, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = trained[0].paths.best_model.read_bytes()
    for name, content in (("short.pth", whole[: len(whole) // 2]), ("foreign.pth", b"not a model")):
        (tmp_path / name).write_bytes(content)
        flags = ["--paths.checkpoint", str(tmp_path / name), "--export.output", str(tmp_path / "out")]
        assert run_command("export", flags) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "not a checkpoint" in error
        assert not (tmp_path / "out").exists()


def card_of(bundle: Bundle, folder: Path, root: Path) -> tuple[dict[str, Any], str]:
    """Front matter and text of the card, with the run's files under `root`."""
    chosen = replace(bundle.config.export, output=str(folder))
    export(bundle, replace(bundle.config, export=chosen, paths=replace(bundle.config.paths, root=str(root))))
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def evaluation(bundle: Bundle, nats: float) -> dict[str, Any]:
    """As much of evaluation.json as the card shows."""
    return {
        "split": {"hash": bundle.info["split_hash"]},
        "val": {
            "tweets": 98,
            "bits_per_byte": 2.125,
            "interval": [2.0, 2.25],
            "nats_per_token": nats,
            "perplexity": 432.1,
        },
        "baselines": {"ngram": 2.345},
        "stopping": {"stop_rate": 0.973},
        "memorisation": {"exact_copies": 0.0},
        "verdict": ["It beats the 3-gram model."],
    }


def test_the_card_is_filled_from_the_run(trained: tuple[Config, Bundle], tmp_path: Path) -> None:
    config, bundle = trained
    root = tmp_path / "root"
    shutil.copytree(config.paths.data, root / "data")
    results = root / "results" / "evaluation.json"
    results.parent.mkdir()
    results.write_text(json.dumps(evaluation(bundle, bundle.info["val_nats_per_token"])), encoding="utf-8")
    front, text = card_of(bundle, tmp_path / "elon", root)
    assert front["library_name"] == "transformers" and "base_model" not in front
    assert front["model-index"][0]["results"][0]["metrics"][0] == {"type": "bits_per_byte", "value": 2.125}
    info = json.loads(config.paths.processed_json.read_text(encoding="utf-8"))
    for expected in (
        "# elon\n",
        f"| rows in `sample_tweets.csv` | {info['source']['rows']:,} |",
        f"| trained on | {info['split']['train']:,} |",
        "| train.epochs | 2 |",
        "**2.125**",
        "| bits per byte of ngram on the same tweets | 2.345 |",
        "- It beats the 3-gram model.",
        "invented posts",
    ):
        assert expected in text
    assert str(tmp_path) not in text and str(config.paths.root) not in text


@pytest.mark.parametrize(
    ("start", "base"), [("distilgpt2", "distilgpt2"), ("/gone/old", None), ("old.pth", None), ("data", None)]
)
def test_the_card_names_its_origin(
    trained: tuple[Config, Bundle], tmp_path: Path, start: str, base: str | None
) -> None:
    bundle = scrambled(trained[1], init_from=start)
    front, text = card_of(bundle, tmp_path / "elon", tmp_path / "root")
    assert front.get("base_model") == base
    assert f"fine-tuned from {Path(start).name}" in text and "/gone" not in text


def test_the_card_names_an_outside_teacher(trained: tuple[Config, Bundle], tmp_path: Path) -> None:
    taught = replace(trained[1], info={**trained[1].info, "track": MODEL, "outside_models": ["models/smollm2"]})
    _, text = card_of(taught, tmp_path / "taught", tmp_path / "root")
    assert "It also learnt from smollm2, an outside model. Its track is: + outside model." in text
    assert "Part of what it knows comes from a pretrained model" in text and "models/" not in text
    _, text = card_of(trained[1], tmp_path / "alone", tmp_path / "root")
    assert "Its track is: tweets only." in text and "outside model" not in text
    assert "It learnt English from a few thousand tweets" in text


def test_the_card_tells_only_of_this_model(trained: tuple[Config, Bundle], tmp_path: Path) -> None:
    _, bundle = trained
    root = tmp_path / "root"
    (root / "results").mkdir(parents=True)
    other = evaluation(bundle, bundle.info["val_nats_per_token"] + 0.1)  # that of an earlier training
    (root / "results" / "evaluation.json").write_text(json.dumps(other), encoding="utf-8")
    front, text = card_of(bundle, tmp_path / "elon", root)
    assert "model-index" not in front and "2.125" not in text
    assert f"| bits per byte on held-out tweets | {bundle.info['val_bits_per_byte']:.3f} |" in text
    assert "record of its data was not available" in text and "automatic parody" in text
