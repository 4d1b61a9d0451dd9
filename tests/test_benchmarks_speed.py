"""The speed benchmarks on tiny shapes: both sides compute the same, the tables have their rows."""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from benchmarks import generate_speed, limits, rivals, same_curves, startup, timing, train_speed
from benchmarks.train_speed import PAD
from model.tokenizer import END, load_tokenizer
from tests.conftest import TINY
from trainer.batches import Epoch
from trainer.job import framed_ids
from trainer.train import Trainer
from utils.preprocess import preprocess

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
    """What stands in for a checkout of nanoGPT."""
    folder = tmp_path_factory.mktemp("nanogpt")
    (folder / "model.py").write_text(STAND_IN, encoding="utf-8")
    return folder


# ---- timing ----------------------------------------------------------------------------------------------------------


def test_sides_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    found = timing.take_turns({"a": lambda: side("a"), "b": lambda: side("b")}, repeats=3)
    assert calls == ["a", "b"] * 4
    assert found == {"a": [3, 5, 7], "b": [4, 6, 8]}


def test_a_slow_side_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LONG", 0.01)

    def slow() -> float:
        time.sleep(0.02)
        return 1.0

    found = timing.take_turns({"slow": slow, "fast": lambda: 2.0}, repeats=2)
    assert found == {"slow": [1.0], "fast": [2.0, 2.0]}
    assert [timing.spread(values) for values in found.values()] == ["1 (once)", "2 (2 to 2)"]


def test_figures_are_medians() -> None:
    assert timing.spread([5, 1, 3]) == "3 (1 to 5)"
    assert timing.times([10, 20, 90], [5, 4, 1]) == 5
    assert timing.table(["a", "b"], [["x", "1"]]) == "| a | b |\n|---|---:|\n| x | 1 |"


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_limits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"SQUARES": {"cpu": (64,)}, "WIDTHS": (16,), "VOCABULARIES": (100,), "TOKENS": 8}.items():
        monkeypatch.setattr(limits, name, value)
    monkeypatch.setattr(limits, "COPIED", {"cpu": 1 << 16})
    monkeypatch.setattr(sys, "argv", ["limits", "--seconds", "0.001", "--device", "cpu"])
    limits.main()
    lines = capsys.readouterr().out.splitlines()
    quick = ["bf16 product, best, GFLOP/s"] if limits.makes_bf16(CPU) else []
    assert [line.split("|")[1].strip() for line in lines[2 : 6 + len(quick)]] == [
        "fp32 product, best, GFLOP/s",
        *quick,
        "copy, GB/s",
        "MLP, 16 wide, GFLOP/s",
        "head, 100 rows, 16 wide, GFLOP/s",
    ]
    assert all(value > 0 for by in json.loads(lines[-1])["limits"].values() for value in by.values())


def test_a_products_speed_is_its_operations_over_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "best", lambda work, device, *, seconds: 2.0)
    assert limits.product(1000, 1000, 500, CPU, torch.float32, seconds=1) == pytest.approx(0.5)


# ---- peers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["train_speed", "generate_speed"])
def test_a_missing_checkout_gives_one_line(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{module}", "--peers", f"nanogpt={tmp_path / 'none'}"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: --peers nanogpt=") and done.stderr.count("\n") == 1
    assert "git clone" in done.stderr


@pytest.mark.parametrize("text", ["nanogpt", "transformers=here", "gpt5"])
def test_a_wrong_peer_gives_one_line(text: str) -> None:
    with pytest.raises(SystemExit, match="give transformers, or nanogpt=PATH"):
        rivals.peers_of([text])


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sides(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, train_speed.Side], int]:
    """Every side but transformers', whose Trainer needs a package that the requirements do not have."""
    options = argparse.Namespace(
        csv=generate_speed.SAMPLE, peers=[f"nanogpt={checkout}"], compile=False, block=None, batch=None
    )
    return train_speed.sides_of(options, tmp_path_factory.mktemp("train"), shape=SHAPE, device=CPU)


def test_training_has_its_rows(sides: tuple[dict[str, train_speed.Side], int]) -> None:
    ceilings = {"fp32": 10.0, "bf16": 20.0}
    figures = train_speed.measure(sides[0], shape=SHAPE, epoch=sides[1], ceilings=ceilings, seconds=0.01, repeats=2)
    rows = train_speed.rows_of(SHAPE, figures)
    assert [row[0] for row in rows] == [f"{SHAPE}: {name}" for name in [*train_speed.VARIANTS, "nanoGPT"]]
    assert rows[3][1] == "50,257" and rows[4][1] == "50,304"
    assert figures["ours, float32"]["numbers"] == figures["nanoGPT"]["numbers"] == "fp32"
    for figure in figures.values():
        share = figure["mflop_per_token"] * figure["tokens_per_second"][0] / 1e3 / ceilings[figure["numbers"]]
        assert figure["share"][0] == pytest.approx(share)
        for speed, seconds in zip(figure["tokens_per_second"], figure["epoch_seconds"], strict=True):
            assert speed * seconds == pytest.approx(sides[1])


def test_long_texts_fill_the_context_they_are_given(checkout: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    words, dice = [f"word{n}" for n in range(20)], random.Random(0)
    path.write_text("\n\n".join(" ".join(dice.choices(words, k=200)) + "." for _ in range(60)), "utf-8")
    options = argparse.Namespace(csv=path, peers=[f"nanogpt={checkout}"], compile=False, block=48, batch=3)
    found, _ = train_speed.sides_of(options, tmp_path, shape=SHAPE, device=CPU)
    assert found["nanoGPT"].reach == 48 and 32 < found[train_speed.OURS].reach <= 48
    for name, whole in (("nanoGPT", True), (train_speed.OURS, False)):
        tokens, _ = found[name].train(0.01)
        assert tokens % (3 * 48) == 0 if whole else tokens > 0


def test_ours_counts_no_padding(
    sides: tuple[dict[str, train_speed.Side], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    update, counted = Trainer.update, []

    def counting(self: Trainer, epoch: Epoch, examples: torch.Tensor) -> None:
        update(self, epoch, examples)
        counted.append(int(self.job.train.lengths[examples].sum()))

    monkeypatch.setattr(Trainer, "update", counting)
    tokens, seconds = sides[0][train_speed.OURS].train(0.05)
    assert tokens == sum(counted) and seconds >= 0.05


def test_operations_of_a_token() -> None:
    """Against torch's own count, forward and backward, of a stock GPT-2 without attention's own products."""
    from torch.utils.flop_counter import FlopCounterMode

    from config.cli import parse
    from model.transformer import GPT

    flags = [
        "--model.n_layer",
        "2",
        "--model.n_embd",
        "32",
        "--model.n_head",
        "2",
        "--model.dropout",
        "0",
        "--model.block_size",
        "16",
    ]
    model = GPT(parse("train", flags)[0].model, 100)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(torch.zeros(3, 16, dtype=torch.long)).flatten(0, 1), torch.zeros(48).long()).backward()
    products = {"aten.addmm", "aten.mm", "aten.bmm", "aten.linear"}
    counted = sum(n for kind, n in counter.get_flop_counts()["Global"].items() if str(kind).split(".d")[0] in products)
    expected = train_speed.flops_per_token(n_layer=2, n_embd=32, rows=100, reach=0)
    assert counted / 48 == pytest.approx(expected, rel=0.01)
    whole = train_speed.flops_per_token(n_layer=2, n_embd=32, rows=100, reach=16)
    assert whole - expected == 2 * (16 * 32 * 2 * 2) * 3  # q k^T and its product with v, forward and twice backward


def test_transformers_learns_the_same_tokens(tmp_path: Path) -> None:
    """Loss and tokens of a padded batch, as transformers sees them, are those of the tweets one by one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = train_speed.settings(generate_speed.SAMPLE, tmp_path, shape=SHAPE, device=CPU)
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


# ---- generating ------------------------------------------------------------------------------------------------------


def test_generating(checkout: Path, tmp_path: Path) -> None:
    """All sides write as many tokens; the exported model is ours."""
    config = generate_speed.settings(generate_speed.SAMPLE, tmp_path, shape=SHAPE, device=CPU)
    bundle = generate_speed.untrained(config, CPU)
    peers = rivals.peers_of(["transformers", f"nanogpt={checkout}"])
    found = generate_speed.measure(bundle, peers, tmp_path, batches=[2], tokens=3, repeats=1)
    assert found["log_probability_difference"] < 1e-4
    rows = generate_speed.rows_of(SHAPE, found)
    names = [f"ours, {found['rows']:,} rows", generate_speed.FULL, generate_speed.ROWS, "nanoGPT"]
    assert [row[0] for row in rows] == [f"{SHAPE}, 2 at once: {name}" for name in names]
    assert rows[0][2] == "" and all(float(row[2]) > 0 for row in rows[1:])


# ---- starting --------------------------------------------------------------------------------------------------------


def test_startup_has_its_rows_and_verdicts() -> None:
    found = {startup.HELP: [0.1, 0.2, 0.9], startup.TORCH: [1.0], startup.GENERATE: [1.6]}
    rows = startup.rows_of(found)
    assert rows[0][1] == "0.20 (0.10 to 0.90)" and rows[0][2] == "under 0.5 s: met"
    assert rows[2][2] == "under 1.5 times torch alone: 1.60, missed"


def test_startup_runs_what_it_times(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no checkpoint at"):
        startup.python("main.py", "generate", "Tesla will", "--paths.root", str(tmp_path))


def test_curves_without_a_speed_up_are_compared_seed_by_seed() -> None:
    options = argparse.Namespace(csv=startup.SAMPLE, flags=[*TINY, "--train.epochs", "1"])
    found = {name: [same_curves.in_a_process(name, 0, options)] for name in (same_curves.ALL, "fused AdamW")}
    assert found["fused AdamW"][0]["curve"] != found[same_curves.ALL][0]["curve"]  # it was switched off
    found = {same_curves.ALL: found[same_curves.ALL], "a": found[same_curves.ALL], "b": found["fused AdamW"]}
    alike, otherwise = same_curves.rows_of(found)[1:]
    assert len(found[same_curves.ALL][0]["curve"]) == 2 and alike[-1] == "equal to the last bit"
    assert otherwise[-1].startswith("at most 0.")
