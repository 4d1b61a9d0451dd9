"""The speed benchmarks run on tiny settings: each prints its table, and what it counts and compares is right."""

import argparse
import json
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from benchmarks import generate_speed, limits, rivals, same_curves, startup, timing, train_speed
from benchmarks.train_speed import PAD
from config.cli import parse
from model.tokenizer import END, load_tokenizer
from model.transformer import GPT
from tests.conftest import TINY
from trainer.job import framed_ids
from utils.preprocess import Tweet, preprocess

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
SHAPE = "1x16"
# As much of nanoGPT's interface as the benchmarks use, in our own words.
STAND_IN = """
from dataclasses import dataclass
import torch
from torch.nn import functional as F

@dataclass
class GPTConfig:
    n_layer: int; n_head: int; n_embd: int; block_size: int; dropout: float; vocab_size: int; bias: bool

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = torch.nn.Embedding(config.vocab_size, config.n_embd)
        print("number of parameters: few")

    def forward(self, x, y=None):
        logits = self.table(x) @ self.table.weight.T
        return logits, None if y is None else F.cross_entropy(logits.flatten(0, 1), y.flatten())

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)

    def generate(self, ids, tokens, temperature):
        for _ in range(tokens):
            chosen = (self(ids)[0][:, -1] / temperature).softmax(-1).multinomial(1)
            ids = torch.cat([ids, chosen], 1)
        return ids
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout of nanoGPT."""
    folder = tmp_path_factory.mktemp("nanogpt")
    (folder / "model.py").write_text(STAND_IN, encoding="utf-8")
    return folder


# What llama-batched-bench prints: here every token takes a hundredth of a second.
LLAMA_STAND_IN = """#!{python}
import json, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert open(given["-m"], "rb").read(4) == b"GGUF", given
print("main: n_kv_max = 2048")
print(json.dumps({{"pl": int(given["-npl"]), "t": int(given["-npl"]) * int(given["-ntg"]) / 100}}))
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that looks like llama-batched-bench."""
    path = tmp_path_factory.mktemp("llama") / "llama-batched-bench"
    path.write_text(LLAMA_STAND_IN.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def few(tweets: list[Tweet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 75 tweets."""
    path = tmp_path_factory.mktemp("few") / "few.csv"
    path.write_text("text\n" + "\n".join(tweet.text for tweet in tweets[::2]), encoding="utf-8")
    return path


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine can do is measured on small matrices, which takes no time."""
    for name, value in {"SQUARES": {"cpu": (64,)}, "WIDTHS": (16,), "VOCABULARIES": (100,), "TOKENS": 8}.items():
        monkeypatch.setattr(limits, name, value)
    monkeypatch.setattr(limits, "COPIED", {"cpu": 1 << 16})


# ---- timing ----------------------------------------------------------------------------------------------------------


def test_sides_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    found = timing.take_turns({"a": lambda: side("a"), "b": lambda: side("b")}, repeats=3)
    assert calls == ["a", "b"] * 4
    assert found == {"a": [3, 5, 7], "b": [4, 6, 8]}


def test_figures_are_medians() -> None:
    assert timing.spread([5, 1, 3]) == "3 (1 to 5)" and timing.spread([1.0]) == "1 (once)"
    assert timing.times([10, 20, 90], [5, 4, 1]) == 5
    assert timing.table(["a", "b"], [["x", "1"]]) == "| a | b |\n|---|---:|\n| x | 1 |"


# ---- the commands ----------------------------------------------------------------------------------------------------


def test_limits(small_limits: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["limits", "--seconds", "0.001", "--device", "cpu"])
    limits.main()
    lines = capsys.readouterr().out.splitlines()
    quick = ["bf16 product, best, GFLOP/s"] if limits.makes_bf16(CPU) else []
    assert [line.split("|")[1].strip() for line in lines[2 : 6 + len(quick)]] == [
        "fp32 product, best, GFLOP/s",
        *quick,
        "copy, GB/s",
        "MLP, 16 wide, GFLOP/s",
        "head, 100 ids, 16 wide, GFLOP/s",
    ]
    assert all(value > 0 for by in json.loads(lines[-1])["limits"].values() for value in by.values())


def test_the_limit_of_a_step_is_reading_or_multiplying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "reading", lambda *_, **__: 10.0)  # GB/s
    shape = parse("train", ["--model.n_layer", "2", "--model.n_embd", "64"])[0].model
    ours, full = generate_speed.OURS, generate_speed.FULL
    found = {"rows": 1000, "speeds": {"1": {ours: [1.0], full: [1.0]}, "64": {ours: [1.0], full: [1.0]}}}
    limit = generate_speed.highest(shape, found, CPU, gflops=50.0)
    for side, rows in ((ours, 1000), (full, 50_257)):
        weights = 12 * 2 * 64 * 64 + rows * 64
        assert limit["1"][side] == pytest.approx(1 / (4 * weights / 10e9))
        assert limit["64"][side] == pytest.approx(50e9 / (2 * weights))


@pytest.mark.usefixtures("small_limits")
def test_train_speed(
    few: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All sides but transformers', whose Trainer needs a package that the requirements do not have."""
    flags = [
        "--csv",
        str(few),
        "--shapes",
        SHAPE,
        "--peers",
        f"nanogpt={checkout}",
        "--seconds",
        "0.01",
        "--batch",
        "4",
    ]
    monkeypatch.setattr("sys.argv", ["train_speed", *flags, "--device", "cpu"])
    train_speed.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:7]]
    assert [row[0] for row in rows] == [f"{SHAPE}: {name}" for name in [*train_speed.VARIANTS, "nanoGPT"]]
    assert rows[3][1] == "50,257" and rows[4][1] == "50,304"
    found = json.loads(lines[-1])
    ceilings, shape = found["limit_gflops"], found["shapes"][SHAPE]
    assert shape["sides"]["ours, float32"]["numbers"] == shape["sides"]["nanoGPT"]["numbers"] == "fp32"
    for figure in shape["sides"].values():
        share = figure["mflop_per_token"] * figure["tokens_per_second"][0] / 1e3 / ceilings[figure["numbers"]]
        assert figure["share"][0] == pytest.approx(share)
        for speed, seconds in zip(figure["tokens_per_second"], figure["epoch_seconds"], strict=True):
            assert speed * seconds == pytest.approx(shape["tokens_of_an_epoch"])


@pytest.mark.usefixtures("small_limits")
def test_generate_speed(
    few: Path, checkout: Path, bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All sides write as many tokens, which the command checks; the exported model is ours."""
    flags = ["--csv", str(few), "--shapes", SHAPE, "--batches", "2", "--tokens", "3", "--device", "cpu"]
    peers = ["transformers", f"nanogpt={checkout}", f"llama.cpp={bench}"]
    monkeypatch.setattr("sys.argv", ["generate_speed", *flags, "--threads", "1", "--peers", *peers])
    before = torch.get_num_threads()
    try:
        generate_speed.main()
    finally:
        torch.set_num_threads(before)
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])["shapes"][SHAPE]
    assert found["log_probability_difference"] < 1e-4
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:10]]
    names = [f"ours, {found['rows']:,} ids", generate_speed.FULL, generate_speed.ROWS, "nanoGPT"]
    for told in ("all 50,257 tokens", "exported with the model's vocabulary"):
        names += [f"llama.cpp, {numbers}, {told}" for numbers in ("f32", "q8_0")]
    assert [row[0] for row in rows] == [f"{SHAPE}, 2 at once: {name}" for name in names]
    assert rows[0][2] == "" and all(float(row[2]) > 0 for row in rows[1:])
    for row, name in zip(rows, [generate_speed.OURS, *names[1:]], strict=True):
        speeds = sorted(found["speeds"]["2"][name])
        assert row[3] == f"{speeds[len(speeds) // 2] / found['limits']['2'][name]:.0%}"
    assert all(row[1] == "100 (100 to 100)" for row in rows[4:])


def test_a_llama_cpp_that_fails_gives_one_line(tmp_path: Path) -> None:
    program = tmp_path / "llama-batched-bench"
    program.write_text("#!/bin/sh\necho no such model >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(SystemExit, match=r"^error: .*llama-batched-bench -m .* failed with 1: no such model$"):
        rivals.llama_cpp(program, tmp_path / "x.gguf", prompt=1, batch=1, tokens=1, threads=1)


@pytest.mark.parametrize("module", [train_speed, generate_speed])
def test_a_missing_checkout_gives_one_line(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["speed", "--peers", f"nanogpt={tmp_path / 'none'}"])
    with pytest.raises(SystemExit, match=r"^error: --peers nanogpt=.* no model\.py in .*git clone .*$"):
        module.main()


@pytest.mark.parametrize("text", ["nanogpt", "transformers=here", "gpt5", "llama.cpp"])
def test_a_wrong_peer_gives_one_line(text: str) -> None:
    with pytest.raises(SystemExit, match=r"give transformers, nanogpt=PATH .*, or llama\.cpp=PATH"):
        rivals.peers_of([text])


def test_startup_has_its_rows_and_verdicts() -> None:
    found = {startup.HELP: [0.1, 0.2, 0.9], startup.TORCH: [1.0], startup.GENERATE: [1.6]}
    rows = startup.rows_of(found)
    assert rows[0][1] == "0.20 (0.10 to 0.90)" and rows[0][2] == "under 0.5 s: met"
    assert rows[2][2] == "under 1.5 times torch alone: 1.60, missed"


def test_startup_runs_what_it_times(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no checkpoint at"):
        startup.python("main.py", "generate", "Tesla will", "--paths.root", str(tmp_path))


def test_curves_without_a_speed_up_are_compared_seed_by_seed(few: Path) -> None:
    options = argparse.Namespace(csv=few, flags=[*TINY, "--train.epochs", "1"])
    found = {name: [same_curves.in_a_process(name, 0, options)] for name in (same_curves.ALL, "fused AdamW")}
    assert found["fused AdamW"][0]["curve"] != found[same_curves.ALL][0]["curve"]  # it was switched off
    found = {same_curves.ALL: found[same_curves.ALL], "a": found[same_curves.ALL], "b": found["fused AdamW"]}
    alike, otherwise = same_curves.rows_of(found)[1:]
    assert len(found[same_curves.ALL][0]["curve"]) == 2 and alike[-1] == "equal to the last bit"
    assert otherwise[-1].startswith("at most 0.")


# ---- what they count -------------------------------------------------------------------------------------------------


def test_ours_counts_no_padding(few: Path, tmp_path: Path) -> None:
    """All tweets are one batch: however many steps are taken, each learns from the tokens of an epoch."""
    config = train_speed.settings(few, tmp_path, shape=SHAPE, device=CPU, flags=["--train.batch_size", "100"])
    corpus = preprocess(config)
    lengths = [len(ids) - 1 for ids in framed_ids(corpus.train, load_tokenizer())]
    assert len(lengths) <= 100 and len(set(lengths)) > 1
    tokens, seconds = train_speed.ours(config, corpus).train(0.05)
    assert tokens > 0 and tokens % sum(lengths) == 0 and seconds >= 0.05


def test_long_texts_fill_the_context_they_are_given(checkout: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    words, dice = [f"word{n}" for n in range(20)], random.Random(0)
    path.write_text("\n\n".join(" ".join(dice.choices(words, k=50)) + "." for _ in range(60)), "utf-8")
    options = argparse.Namespace(csv=path, peers=[f"nanogpt={checkout}"], compile=False, block=48, batch=3)
    found, _ = train_speed.sides_of(options, tmp_path, shape=SHAPE, device=CPU)
    assert found["nanoGPT"].reach == 48 and 32 < found[train_speed.OURS].reach <= 48
    for name, whole in (("nanoGPT", True), (train_speed.OURS, False)):
        tokens, _ = found[name].train(0.01)
        assert tokens % (3 * 48) == 0 if whole else tokens > 0


def test_a_products_speed_is_its_operations_over_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "best", lambda work, device, *, seconds: 2.0)
    assert limits.product(1000, 1000, 500, CPU, torch.float32, seconds=1) == pytest.approx(0.5)


def test_operations_of_a_token() -> None:
    """Against torch's own count, forward and backward, of a stock GPT-2 without attention's own products."""
    from torch.utils.flop_counter import FlopCounterMode

    shape = {"n_layer": 2, "n_embd": 32, "n_head": 2, "dropout": 0, "block_size": 16}
    flags = [word for name, value in shape.items() for word in (f"--model.{name}", str(value))]
    model = GPT(parse("train", flags)[0].model, 100)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(torch.zeros(3, 16, dtype=torch.long)).flatten(0, 1), torch.zeros(48).long()).backward()
    products = {"aten.addmm", "aten.mm", "aten.bmm", "aten.linear"}
    counted = sum(n for kind, n in counter.get_flop_counts()["Global"].items() if str(kind).split(".d")[0] in products)
    expected = train_speed.flops_per_token(n_layer=2, n_embd=32, rows=100, reach=0)
    assert counted / 48 == pytest.approx(expected, rel=0.01)
    whole = train_speed.flops_per_token(n_layer=2, n_embd=32, rows=100, reach=16)
    assert whole - expected == 2 * (16 * 32 * 2 * 2) * 3  # q k^T and its product with v, forward and twice backward


def test_transformers_learns_the_same_tokens(few: Path, tmp_path: Path) -> None:
    """Loss and tokens of a padded batch, as transformers sees them, are those of the tweets one by one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = train_speed.settings(few, tmp_path, shape=SHAPE, device=CPU)
    tweets = framed_ids(preprocess(config).train[:3], load_tokenizer())
    batch = train_speed.collate(tweets)
    assert int((batch["labels"][:, 1:] != PAD).sum()) == sum(len(tweet) - 1 for tweet in tweets)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=128, bos_token_id=END)).eval()
    with torch.no_grad():
        nats = [
            F.cross_entropy(model(torch.tensor([tweet])).logits[0, :-1], torch.tensor(tweet[1:]), reduction="sum")
            for tweet in tweets
        ]
        loss = model(**batch).loss
    assert float(loss) == pytest.approx(float(sum(nats)) / sum(len(tweet) - 1 for tweet in tweets), rel=1e-5)
