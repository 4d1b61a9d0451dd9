"""The pictures of README.md and docs/, made from your own trained model: `python -m docs.figures`.

It takes the settings of every command (--paths.root). The training comparisons come from docs/comparison.json. All
texts are invented. Each picture holds the figures that it shows as text, so that a test can compare them with the
documents.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from config.cli import parse
from config.schema import Config, UserError
from docs import photographs
from docs.comparison import HERE, RESULT
from inspection.attention import attention_weights, read
from inspection.page import token_label
from model.checkpoint import Bundle, load_bundle
from model.device import choose_device
from model.tokenizer import END
from trainer.batches import TweetDataset
from trainer.score import score
from utils.files import atomic_write
from utils.plot_loss import draw, ngram_of
from utils.preprocess import Corpus, load_processed
from utils.run_log import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = HERE / "pictures"
TWEET = "Unforgettable marsquake party on Olympus Mons 🚀"
OPENING = "The first people"
READING = f"{OPENING} on Mars will need a warm van and a lot of tea"
SENTENCES = "The engine works. It is warm. We made tea on it. They like it."
WHOLE = "Is it a van? No. It is a small house, and it is warm."
BLUE, ORANGE, GREEN, GREY = "#1f6fb2", "#d1602a", "#2d8f73", "#6b6b6b"


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def logits_of(bundle: Bundle, ids: list[int]) -> Tensor:
    """Logits (T, V) after each of the tokens (T,); the shared ids, which stand for no single token, have -inf."""
    device = bundle.model.wte.weight.device
    with torch.no_grad():
        logits = bundle.model(bundle.vocabulary.from_gpt2(ids).to(device)[None])[0].float().cpu()
    return bundle.vocabulary.forbid_shared(logits)


def tokens(bundle: Bundle) -> "Figure":
    """A tweet cut into tokens, with their numbers."""
    ids = [END, *bundle.tokenizer.encode(TWEET), END]
    names = [token_label(bundle.tokenizer, index) for index in ids]
    widths = [max(len(name), len(str(index))) + 1.5 for name, index in zip(names, ids, strict=True)]
    figure = new_figure(0.105 * sum(widths), 1.2)
    axes = figure.subplots()
    left = 0.0
    for place, (name, index, width) in enumerate(zip(names, ids, widths, strict=True)):
        colour = GREY if index == END else (BLUE, GREEN)[place % 2]
        axes.barh(0, width - 0.3, left=left, height=0.5, color=colour, alpha=0.25)
        middle = left + (width - 0.3) / 2
        axes.text(middle, 0, name, ha="center", va="center", family="monospace", fontsize=10, parse_math=False)
        axes.text(middle, -0.42, str(index), ha="center", va="center", fontsize=8, color=GREY)
        left += width
    axes.set(title=f"{len(ids)} tokens, and their numbers in GPT-2's list", xlim=(0, left), ylim=(-0.6, 0.4))
    axes.axis("off")
    return figure


def positions(bundle: Bundle, corpus: Corpus) -> "Figure":
    """What the model loses on unseen tweets when the positions that it is given are wrong."""
    table = bundle.model.wpe.weight
    right = table.detach().clone()
    last = len(right)
    given: dict[str, Tensor] = {
        "each position moved on by 1": right[shifted(last, 1)],
        "each moved on by 5": right[shifted(last, 5)],
        "each moved on by 20": right[shifted(last, 20)],
        "the same vector everywhere": right.mean(0, keepdim=True).expand_as(right),
        "mixed up": right[torch.randperm(last, generator=torch.Generator().manual_seed(0))],
    }
    val = TweetDataset.encode(corpus.val, bundle.tokenizer, bundle.vocabulary, last)
    before, losses = score(bundle.model, val).bits_per_byte, []
    for wrong in given.values():
        table.data.copy_(wrong)
        losses.append(score(bundle.model, val).bits_per_byte - before)
        table.data.copy_(right)
    figure = new_figure(7.5, 2.8)
    axes = figure.subplots()
    bars = axes.barh(list(given), losses, color=BLUE)
    axes.bar_label(bars, [f" {loss:+.3f}" for loss in losses], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(title=f"Wrong positions: bits per byte more than {before:.3f}", xlabel="bits per byte lost")
    return figure


def shifted(count: int, by: int) -> Tensor:
    """Positions 0 to count - 1, where all but the first are `by` too high."""
    return torch.cat([torch.zeros(1, dtype=torch.long), (torch.arange(1, count) + by).clamp(max=count - 1)])


def head(bundle: Bundle) -> "Figure":
    """The head that looks most from the first token of a sentence at the full stop before it."""
    ids = read(bundle, SENTENCES)
    weights = attention_weights(bundle.model, bundle.vocabulary.from_gpt2(ids).to(bundle.model.wte.weight.device)).cpu()
    names = [token_label(bundle.tokenizer, index) for index in ids]
    stops = torch.tensor([place for place, name in enumerate(names[:-1]) if name == "."])
    layer, chosen = divmod(int(weights[..., stops + 1, stops].mean(-1).argmax()), weights.shape[1])  # (L, H)
    figure = new_figure(6.4, 5.4)
    axes = figure.subplots()
    image = axes.imshow(weights[layer, chosen].numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(title=f"Layer {layer + 1}, head {chosen + 1}: who looks (rows) at whom (columns)")
    axes.set_xticks(range(len(ids)), names, rotation=90, family="monospace", parse_math=False)
    axes.set_yticks(range(len(ids)), names, family="monospace", parse_math=False)
    figure.colorbar(image, label="attention weight")
    return figure


def activation() -> "Figure":
    """GELU beside ReLU: the curves, and training with each."""
    x = torch.linspace(-4, 4, 200)
    curves = {"GELU": torch.nn.functional.gelu(x, approximate="tanh"), "ReLU": x.relu()}
    figure = new_figure(9.5, 3.8)
    left, right = figure.subplots(1, 2)
    left.plot(x.tolist(), curves["GELU"].tolist(), color=BLUE, label="GELU")
    left.plot(x.tolist(), curves["ReLU"].tolist(), color=ORANGE, linestyle="--", label="ReLU")
    left.set(title="Two activation functions", xlabel="in", ylabel="out")
    left.legend(frameon=False)
    draw_training(right, {"GELU": BLUE, "ReLU": ORANGE})
    return figure


def skips() -> "Figure":
    """Training with and without skip connections."""
    figure = new_figure(6.4, 3.8)
    draw_training(figure.subplots(), {"GELU": BLUE, "no skip connections": ORANGE}, {"GELU": "with skip connections"})
    return figure


def draw_training(axes: Any, colours: dict[str, str], names: dict[str, str] | None = None) -> None:
    """The curves of docs/comparison.json: a thin line for each seed, a thick one for their mean."""
    measured = json.loads(RESULT.read_text(encoding="utf-8"))
    for variant, colour in colours.items():
        runs = measured["bits_per_byte"][variant]  # seeds, 1 + epochs
        last = [run[-1] for run in runs]
        for run in runs:
            axes.plot(run[1:], color=colour, alpha=0.3, linewidth=1)
        text = f"{(names or {}).get(variant, variant)}: {mean(last):.3f} ± {stdev(last):.3f} at the end"
        axes.plot([mean(epoch) for epoch in zip(*runs, strict=True)][1:], color=colour, linewidth=2, label=text)
    epochs = range(measured["epochs"])
    axes.set_xticks(epochs, [str(epoch + 1) for epoch in epochs])
    shape = f"{measured['n_layer']} layers, {measured['n_embd']} wide"
    axes.set(title=f"Sample tweets, {shape}, {len(runs)} seeds each", xlabel="epoch", ylabel="validation bits per byte")
    axes.legend(frameon=False)


def temperature(bundle: Bundle) -> "Figure":
    """The same prediction at three temperatures."""
    ids = read(bundle, OPENING)
    logits = logits_of(bundle, ids)[-1]
    likeliest = logits.topk(10).indices
    figure = new_figure(8.5, 3.8)
    axes = figure.subplots()
    for place, (value, colour) in enumerate({0.4: GREEN, 0.8: BLUE, 1.5: ORANGE}.items()):
        chances = (logits / value).softmax(-1)[likeliest].tolist()
        spots = [spot + (place - 1) * 0.27 for spot in range(10)]
        name = f"temperature {value} (these ten: {sum(chances):.0%})"
        axes.bar(spots, chances, width=0.25, color=colour, label=name)
    names = [token_label(bundle.tokenizer, index) for index in bundle.vocabulary.to_gpt2(likeliest)]
    axes.set_xticks(range(10), names, family="monospace", parse_math=False)
    axes.set(title=f"What follows “{OPENING}”?", ylabel="probability")
    axes.legend(frameon=False)
    return figure


def ending(bundle: Bundle) -> "Figure":
    """How likely the end mark is after each token of a tweet."""
    ids = read(bundle, WHOLE)
    chances = logits_of(bundle, ids).softmax(-1)[:, bundle.vocabulary.end].tolist()
    figure = new_figure(7.5, 3.4)
    axes = figure.subplots()
    axes.bar(range(len(ids)), chances, color=[GREY] * (len(ids) - 1) + [ORANGE])
    for place, chance in enumerate(chances):
        axes.text(place, chance, f"{chance:.0%}" if chance >= 0.005 else "", ha="center", va="bottom", fontsize=8)
    names = [token_label(bundle.tokenizer, index) for index in ids]
    axes.set_xticks(range(len(ids)), names, rotation=45, family="monospace", parse_math=False)
    axes.set(title="Would the tweet end here?", ylabel="probability of ⟨end⟩")
    return figure


FIGURES: dict[str, Callable[[Bundle], "Figure"]] = {
    "tokens": tokens,
    "head": head,
    "temperature": temperature,
    "ending": ending,
}
MEASURED: dict[str, Callable[[], "Figure"]] = {"activation": activation, "skips": skips}


def save(figure: "Figure", path: Path, facts: dict[str, Any]) -> None:
    """Write a PNG that holds the facts; the same figure gives the same bytes."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_alpha(0.2)
    metadata = {"Software": None, photographs.FACTS: json.dumps(facts)}
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata=metadata)


def make(config: Config, folder: Path) -> None:
    """Draw everything into `folder`."""
    bundle = load_bundle(config.paths.best_model, choose_device(config.machine))
    facts = {"parameters": bundle.model.num_parameters(), "bits_per_byte": bundle.info["val_bits_per_byte"]}
    for name, figure in FIGURES.items():
        save(figure(bundle), folder / f"{name}.png", facts)
    save(positions(bundle, load_processed(config.paths)), folder / "positions.png", facts)
    curves = json.loads(RESULT.read_text(encoding="utf-8"))["bits_per_byte"]
    ends = {variant: round(mean(run[-1] for run in runs), 3) for variant, runs in curves.items()}
    for name, measured in MEASURED.items():
        save(measured(), folder / f"{name}.png", ends)
    records = read_log(config.paths.metrics)
    save(draw(records), folder / "loss.png", facts | {"ngram": ngram_of(records)})
    photographs.draw(bundle, config, folder, text=READING, facts=facts)


def main(arguments: Sequence[str]) -> int:
    """`python -m docs.figures [--section.key value ...]`."""
    try:
        make(parse("run", arguments)[0], PICTURES)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {PICTURES}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
