"""How one model or two read a text, as a page to explore: `python main.py attention "Mars is"`.

The page is one file that loads nothing: attention.html, filled with its style sheet, its scripts and the numbers. No
text gets into its HTML: the numbers are JSON, and the scripts only set text.
"""

import base64
import hashlib
import json
import re
import sys
import unicodedata
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.cli import run_command
from config.schema import Config, UserError
from inspection.attention import attention_weights, logit_lens, logits_without, read, surprise, twin
from inspection.picture import draw_attention
from model.checkpoint import Bundle, load_bundle
from model.device import choose_device
from model.language_model import LanguageModel
from model.tokenizer import END, Tokenizer
from utils.files import atomic_write

SOURCES = Path(__file__).parent
GUESSES = 6  # likeliest next tokens shown at each place
LENS_GUESSES = 4  # and after each layer
UNSEEN = -1  # stands for all tokens without a vocabulary entry of their own, which share their probability


def token_label(tokenizer: Tokenizer, index: int) -> str:
    """A readable label of a token: a dot stands for a space; a token that is no text by itself is shown as bytes."""
    if index == UNSEEN:
        return "any token it never met"
    if index == END:
        return "⟨end⟩"
    raw = tokenizer.token_bytes[index]
    text = raw.decode("utf-8", errors="replace").replace(" ", "·").replace("\n", "↵")
    readable = text.isprintable() and "\ufffd" not in text and any(unicodedata.category(c)[0] != "M" for c in text)
    return text if readable else f"‹{raw.hex(' ').upper()}›"


class ModelReader:
    """Reads the GPT-2 ids (T,) with one model, and turns the results into plain values for the page.

    The vocabulary entries that several tokens share count as one, so logits (..., V) become probabilities (..., W).
    """

    def __init__(self, bundle: Bundle, ids: list[int]) -> None:
        self.bundle, self.ids, self.model = bundle, ids, twin(bundle.model)
        self.model_ids = bundle.vocabulary.from_gpt2(ids).to(self.model.wte.weight.device)
        shared = bundle.vocabulary.is_shared
        self.own, self.shared = (~shared).nonzero()[:, 0], shared.nonzero()[:, 0]
        self.token_ids = torch.cat([bundle.vocabulary.gpt2_ids[self.own], torch.tensor([UNSEEN])])  # (W,)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (..., W) of the tokens for logits (..., V)."""
        probs = logits.float().cpu().softmax(-1)
        return torch.cat([probs[..., self.own], probs[..., self.shared].sum(-1, keepdim=True)], -1)

    def likeliest(self, chances: Tensor, count: int) -> list[Any]:
        """The likeliest tokens at each place as [id, probability in 1/10,000], the likeliest first; never UNSEEN."""
        own = chances[..., :-1]
        top = own.topk(min(count, own.shape[-1]))
        return torch.stack([self.token_ids[top.indices], ten_thousandths(top.values)], -1).tolist()

    def weights(self) -> str:
        """Attention weights in 1/255, one byte each, in base64: of each layer and head the lower triangle by rows."""
        lower = torch.tril_indices(len(self.ids), len(self.ids))
        levels = (attention_weights(self.model, self.model_ids).cpu()[:, :, lower[0], lower[1]] * 255).round()
        return base64.b64encode(levels.to(torch.uint8).numpy().tobytes()).decode()

    def without(self, layer: int, head: int, chances: Tensor) -> dict[str, Any]:
        """How the guesses `chances` (T, W) change when a head is switched off, in 1/10,000.

        `moved` is the probability that moves to other tokens, `shares` the new probabilities of the likeliest guesses,
        `real` that of the token that really followed, and `up` the token that gains most: [id, before, after].
        """
        logits = logits_without(self.model, self.model_ids, layer=layer, head=head)
        after = self.probabilities(logits)
        gains = after - chances
        risen = gains.argmax(-1, keepdim=True)
        top = chances[:, :-1].topk(min(GUESSES, chances.shape[-1] - 1)).indices
        up = [self.token_ids[risen], ten_thousandths(chances.gather(1, risen)), ten_thousandths(after.gather(1, risen))]
        return {
            "moved": ten_thousandths(gains.clamp(min=0).sum(-1)).tolist(),
            "shares": ten_thousandths(after.gather(1, top)).tolist(),
            "real": ten_thousandths(torch.exp2(-surprise(self.bundle, self.ids, logits))).tolist(),
            "up": torch.cat(up, 1).tolist(),
        }

    def values(self, name: str) -> dict[str, Any]:
        """Everything that the page shows of this model."""
        shape, lens = self.model.config, logit_lens(self.model, self.model_ids)
        chances = self.probabilities(lens[-1])
        heads = range(shape.n_head)
        guesses = self.likeliest(chances, GUESSES)
        stages = [self.likeliest(self.probabilities(stage), LENS_GUESSES) for stage in lens]
        off = [[self.without(layer, head, chances) for head in heads] for layer in range(shape.n_layer)]
        shown = {index for stage in (guesses, *stages) for place in stage for index, _ in place}
        shown |= {index for layer in off for head in layer for index, _, _ in head["up"]} | set(self.ids)
        return {
            "name": name,
            "facts": model_summary(self.bundle),
            "layers": shape.n_layer,
            "heads": shape.n_head,
            "weights": self.weights(),
            "surprise": [None, *surprise(self.bundle, self.ids, lens[-1]).tolist()],
            "guesses": guesses,
            "unseen": ten_thousandths(chances[:, -1]).tolist(),
            "lens": stages,
            "off": off,
            "pieces": {index: token_label(self.bundle.tokenizer, index) for index in sorted(shown)},
        }


def ten_thousandths(chances: Tensor) -> Tensor:
    """Probabilities as whole numbers of 1/10,000, which take little space in the page."""
    return (chances * 10_000).round().long()


def model_summary(bundle: Bundle[LanguageModel]) -> str:
    """Layers, heads, parameters and validation figure of a model in one line."""
    shape = bundle.model.config
    line = f"{shape.n_layer} layers of {shape.n_head} heads, {bundle.model.num_parameters():,} parameters"
    if (bits := bundle.info.get("val_bits_per_byte")) is not None:
        line += f", {bits:.2f} bits per byte on tweets it never saw"
    return line


def attention_page(
    bundle: Bundle,
    prompt: str,
    other: Bundle | None = None,
    *,
    names: tuple[str, str] = ("this model", "the other model"),
) -> str:
    """How a model reads `prompt`, as an HTML page that needs no other file; with `other`, two models side by side.

    Raises:
        UserError: the prompt does not fit into a model's context.
    """
    bundles = [bundle] if other is None else [bundle, other]
    texts = [read(each, prompt) for each in bundles]  # the same ids; refused if they do not fit into one of the models
    data = {
        "text": prompt.strip(),
        "tokens": [{"id": index, "text": token_label(bundle.tokenizer, index)} for index in texts[0]],
        "models": [ModelReader(each, texts[0]).values(name) for each, name in zip(bundles, names, strict=False)],
    }
    style = (SOURCES / "attention.css").read_text(encoding="utf-8")
    script = "".join((SOURCES / name).read_text(encoding="utf-8") for name in ("attention.js", "attention_map.js"))
    parts = {
        "style": style,
        "style_hash": policy_hash(style),
        "script": script,
        "script_hash": policy_hash(script),
        "data": json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", r"\u003c"),
    }
    template = (SOURCES / "attention.html").read_text(encoding="utf-8")
    return re.sub(r"{{(\w+)}}", lambda place: parts[place[1]], template)


def policy_hash(source: str) -> str:
    """The hash by which the page's content security policy allows its own style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def run(config: Config, arguments: Namespace) -> None:
    """`python main.py attention`."""
    if arguments.prompt is None:
        raise UserError('there is no text to look at: give one, as in `python main.py attention "Mars is"`')
    device = choose_device(config.machine)
    paths = [config.paths.best_model] + ([Path(config.attention.against)] if config.attention.against else [])
    bundles = [load_bundle(path, device) for path in paths]
    page = attention_page(bundles[0], arguments.prompt, *bundles[1:], names=(str(paths[0]), str(paths[-1])))
    with atomic_write(config.paths.results / "attention.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    ids = read(bundles[0], arguments.prompt)
    weights = attention_weights(bundles[0].model, bundles[0].vocabulary.from_gpt2(ids).to(device))
    labels = [token_label(bundles[0].tokenizer, index) for index in ids]
    draw_attention(weights.cpu(), labels, config.paths.results / "attention_map.png")
    for name in ("attention.html", "attention_map.png"):
        print(f"wrote {config.paths.results / name}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command("attention", sys.argv[1:]))
