"""The pictures of docs/how_it_works.md, made from your own trained model: `python -m docs.figures`.

It takes the settings of every command (--paths.root, --paths.checkpoint). The training comparisons come from
docs/comparison.json. All texts are invented.
"""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from config.cli import parse
from config.schema import Config, UserError
from docs.comparison import HERE, RESULT
from inspection.attention import attention_weights, read
from inspection.page import attention_page, token_label
from model.checkpoint import Bundle, load_bundle
from model.device import choose_device
from model.tokenizer import END
from utils.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = HERE / "pictures"
TWEET = "Unforgettable marsquake party on Olympus Mons 🚀"
OPENING = "The first people"
READING = f"{OPENING} on Mars will need a warm van and a lot of tea"
WHOLE = f"{OPENING} on Mars will need a lot of tea."
PLACES = 40  # positions shown: few tweets are longer, so later ones are hardly trained
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


def positions(bundle: Bundle) -> "Figure":
    """How alike the learned positions are."""
    table = bundle.model.wpe.weight[:PLACES].detach().float().cpu()
    table = table - table.mean(0)  # what all positions have in common does not distinguish them
    alike = torch.nn.functional.cosine_similarity(table[:, None], table[None], dim=-1)
    figure = new_figure(5.4, 4.4)
    axes = figure.subplots()
    image = axes.imshow(alike.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set(title="How alike are the vectors of two positions?", xlabel="position", ylabel="position")
    figure.colorbar(image, label="cosine similarity")
    return figure


def head(bundle: Bundle) -> "Figure":
    """The attention weights of the head with the largest weights on earlier tokens."""
    ids = read(bundle, READING)
    weights = attention_weights(bundle.model, bundle.vocabulary.from_gpt2(ids).to(bundle.model.wte.weight.device)).cpu()
    back = weights.tril(-1)[..., 2:, 1:].amax(-1).mean(-1)  # (L, H); neither itself nor the first mark counts
    layer, chosen = divmod(int(back.argmax()), weights.shape[1])
    names = [token_label(bundle.tokenizer, index) for index in ids]
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
    "positions": positions,
    "head": head,
    "temperature": temperature,
    "ending": ending,
}
MEASURED: dict[str, Callable[[], "Figure"]] = {"activation": activation, "skips": skips}


def save(figure: "Figure", path: Path) -> None:
    """Write a PNG; the same figure gives the same bytes."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_alpha(0.2)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def photograph(bundle: Bundle, path: Path) -> None:
    """A picture of the attention page at desktop width, if chromium and playwright are installed."""
    chromium = shutil.which("chromium")
    if chromium is None or find_spec("playwright") is None:
        print(f"chromium or playwright is not installed: {path.name} stays as it is", file=sys.stderr)
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_content(attention_page(bundle, READING))
        with atomic_write(path) as temporary:
            page.screenshot(path=temporary, full_page=True, type="png")
        browser.close()


def make(config: Config, folder: Path) -> None:
    """Draw everything into `folder`."""
    bundle = load_bundle(config.paths.best_model, choose_device(config.machine))
    for name, figure in FIGURES.items():
        save(figure(bundle), folder / f"{name}.png")
    for name, measured in MEASURED.items():
        save(measured(), folder / f"{name}.png")
    photograph(bundle, folder / "page.png")


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
