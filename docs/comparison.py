"""What GELU and the skip connections gain: small models trained with and without them on the sample tweets.

Writes docs/comparison.json, from which `python -m docs.figures` draws. It takes minutes: `python -m docs.comparison`.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from config.cli import parse
from config.schema import Config
from model.transformer import GPT, Block
from trainer.job import prepare
from trainer.train import Trainer
from utils.files import atomic_write
from utils.preprocess import Corpus, preprocess
from utils.run_log import read_log

HERE = Path(__file__).parent
RESULT = HERE / "comparison.json"
SEEDS = (0, 1, 2)
FLAGS = ["--data.path", str(HERE.parent / "data" / "sample_tweets.csv"), "--machine.device", "cpu"]
FLAGS += ["--model.n_layer", "4", "--model.n_head", "4", "--model.n_embd", "64"]
FLAGS += ["--train.epochs", "10", "--train.patience", "10", "--train.sample_every", "0"]
VARIANTS: dict[str, dict[str, Any]] = {
    "GELU": {"activation": "gelu", "skips": True},
    "ReLU": {"activation": "relu", "skips": True},
    "no skip connections": {"activation": "gelu", "skips": False},
}


class WithoutSkips(Block):
    """A block whose results replace the residual stream instead of being added to it."""

    def forward(self, x: Tensor, **where: Any) -> Tensor:
        """As Block.forward, without the two sums."""
        x = self.drop(self.attn(self.ln_1(x), **where))
        return self.drop(self.mlp(self.ln_2(x)))


def train_variant(config: Config, corpus: Corpus, *, activation: Any, skips: bool) -> list[float]:
    """Bits per byte on the validation tweets before training and after each epoch."""
    job = prepare(replace(config, model=replace(config.model, activation=activation)), corpus)
    if not skips:
        assert isinstance(job.model, GPT)
        for block in job.model.h:
            block.__class__ = WithoutSkips
    Trainer(job).fit()
    return [record["val/bits_per_byte"] for record in read_log(config.paths.metrics) if "val/loss" in record]


def compare(flags: list[str], seeds: tuple[int, ...]) -> dict[str, Any]:
    """Train every variant with every seed: the model's settings, and for each variant one curve a seed."""
    with tempfile.TemporaryDirectory() as folder:
        config = parse("run", ["--paths.root", folder, *flags])[0]
        corpus = preprocess(config)
        curves: dict[str, list[list[float]]] = {name: [] for name in VARIANTS}
        for seed in seeds:
            seeded = replace(config, train=replace(config.train, seed=seed))
            for name, variant in VARIANTS.items():
                curves[name].append(train_variant(seeded, corpus, **variant))
    shape = {key: getattr(config.model, key) for key in ("n_layer", "n_head", "n_embd")}
    return {**shape, "epochs": config.train.epochs, "bits_per_byte": curves}


def main() -> int:
    """Measure and write docs/comparison.json."""
    result = compare(FLAGS, SEEDS)
    with atomic_write(RESULT) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {RESULT}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
