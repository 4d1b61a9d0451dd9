"""results/attention_map.png: every head's attention as a grid of small maps, and the mean of each layer."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from utils.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST_LABEL = 12  # characters


def draw_attention(weights: Tensor, labels: list[str], path: Path) -> None:
    """Draw weights (L, H, T, T) as a PNG: a row for each layer, a column for each head, the mean at the end."""
    with atomic_write(path) as temporary:
        picture(weights, labels).savefig(temporary, format="png", dpi=110)


def picture(weights: Tensor, labels: list[str]) -> "Figure":
    """The figure of `draw_attention`."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    layers, heads, T = weights.shape[:3]
    maps = torch.cat([weights, weights.mean(1, keepdim=True)], 1).numpy()
    side = min(6.0, max(1.9, 0.19 * T))  # inches of one map
    figure = Figure(figsize=((heads + 1) * side + 2.2, layers * (side + 0.3) + 1.2), layout="constrained")
    scale = PowerNorm(0.7, 0.0, 1.0)  # small weights would hardly be seen otherwise
    figure.suptitle("Attention: the darker a cell, the more the token of its row looks at the token of its column")
    grid = figure.subplots(layers, heads + 1, squeeze=False)
    for layer in range(layers):
        for head in range(heads + 1):
            axes = grid[layer, head]
            image = axes.imshow(maps[layer, head], cmap="Blues", norm=scale)
            axes.set_title(f"layer {layer + 1}, " + (f"head {head + 1}" if head < heads else "mean"), fontsize=9)
            name_tokens(axes, labels, left=head == 0, below=layer == layers - 1)
    figure.colorbar(image, ax=grid, shrink=0.6, label="attention weight")
    return figure


def name_tokens(axes: "Axes", labels: list[str], *, left: bool, below: bool) -> None:
    """Label the axes with the tokens; with every n-th one if there are very many."""
    every = max(1, len(labels) // 40)
    places = range(0, len(labels), every)
    names = [drawable(labels[t]) for t in places]
    size = 8 if len(labels) <= 40 else 6
    axes.set_xticks(places, names if below else [], rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(places, names if left else [], fontsize=size, parse_math=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_alpha(0.3)


def drawable(text: str) -> str:
    """The text, cut if it is long; a character that matplotlib's own font lacks is shown as its Unicode number."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    known = "".join(character if font.get_char_index(ord(character)) else f"‹{ord(character):X}›" for character in text)
    return known if len(known) <= LONGEST_LABEL else known[: LONGEST_LABEL - 1] + "…"
