"""The README.md of an exported model, filled from its run: what it is, how to use it, how good it is, its limits."""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from config.schema import PathsConfig
from model.checkpoint import Bundle
from model.tokenizer import END_TEXT
from model.tracks import MODEL, origin

Table = Iterable[tuple[str, str]]
RECIPE = ["epochs", "batch_size", "learning_rate", "weight_decay"]
RECIPE += ["output_dropout", "unk_replacement", "ngram_weight"]


def model_card(bundle: Bundle, paths: PathsConfig, *, name: str, num_tokens: int) -> str:
    """The model card of `bundle`, exported over `num_tokens` tokens under `name`."""
    data, evaluation = read_data(bundle, paths), read_evaluation(bundle, paths)
    invented = bool(data and data["source"].get("fiction"))
    parts = [
        front_matter(bundle, evaluation, name),
        f"# {name}\n\n{summary(bundle, num_tokens)}",
        parody_notice(invented=invented),
        usage_section(name, bundle.model.config.block_size),
        "## Data\n\n" + (data_table(data) if data else "The record of its data was not available for this export."),
        "## Recipe\n\n" + recipe(bundle),
        "## Evaluation\n\n" + (evaluation_text(evaluation) if evaluation else training_text(bundle)),
        limits(bundle),
    ]
    return "\n\n".join(parts) + "\n"


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_data(bundle: Bundle, paths: PathsConfig) -> dict[str, Any] | None:
    """processed.json, if it describes the tweets that this model was trained on."""
    found = read_object(paths.processed_json)
    return found if found and found["split"]["hash"] == bundle.info.get("split_hash") else None


def read_evaluation(bundle: Bundle, paths: PathsConfig) -> dict[str, Any] | None:
    """results/evaluation.json, if it is of this model: with the same split, and the same validation loss."""
    found = read_object(paths.results / "evaluation.json")
    if not found or found["split"]["hash"] != bundle.info.get("split_hash"):
        return None
    nats = bundle.info.get("val_nats_per_token", math.nan)
    return found if math.isclose(found["val"]["nats_per_token"], nats, rel_tol=1e-4) else None


def front_matter(bundle: Bundle, evaluation: dict[str, Any] | None, name: str) -> str:
    """The YAML that Hugging Face's hub reads."""
    found: dict[str, Any] = {
        "license": "unknown",
        "language": ["en"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gpt2", "tweets", "parody", "elon-transformer"],
    }
    if (start := bundle.config.model.init_from) and is_hub_name(start):
        found["base_model"] = start
    if evaluation:
        values = [("bits_per_byte", "bits_per_byte"), ("perplexity", "perplexity")]
        metrics = [{"type": kind, "value": round(evaluation["val"][key], 4)} for kind, key in values]
        dataset = {"name": "held-out tweets", "type": "tweets"}
        results = [{"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}]
        found["model-index"] = [{"name": name, "results": results}]
    return f"---\n{yaml.safe_dump(found, sort_keys=False)}---"


def is_hub_name(name: str) -> bool:
    """Whether `name` is that of a model on Hugging Face's hub, and not of a file or folder here."""
    path = Path(name)
    return bool(re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)) and path.suffix != ".pth" and not path.exists()


def summary(bundle: Bundle, num_tokens: int) -> str:
    """What the model is, in a few sentences."""
    model, start = bundle.model.config, bundle.config.model.init_from
    origin_text = f"fine-tuned from {Path(start).name}" if start else "trained from scratch"
    track, models = origin(bundle)
    others = " and ".join(Path(name).name for name in models if name != start)
    text = (
        f"A small GPT-2 ({model.n_layer} layers, {model.n_embd} wide, {model.n_head} heads, {model.block_size} tokens "
        f"of context), {origin_text} on one account's tweets with elon-transformer. "
        + (f"It also learnt from {others}, an outside model. " if others else "")
        + f"Its track is: {track}. It writes tweets, and ends them. "
        f"A stock `GPT2LMHeadModel` over {num_tokens:,} of GPT-2's tokens, trained with "
        f"{bundle.model.num_parameters():,} parameters."
    )
    if num_tokens == bundle.vocabulary.vocab_size:
        return text
    return text + " The files hold more: tokens that no tweet has shared a few rows in training, and got copies here."


def parody_notice(*, invented: bool) -> str:
    """A note that the texts are parody, or that the training posts were invented."""
    if invented:
        return "> It was trained on invented posts, made for demonstration; no real person wrote them."
    return (
        "> **This is an automatic parody.** What it writes was never said or approved by the person whose tweets it "
        "learnt from. Do not pass it off as theirs, and do not act on it."
    )


def usage_section(name: str, context: int) -> str:
    """How to run the model; tests/test_export_export.py runs the same lines."""
    return f'''## How to use it

Every tweet it was trained on began with `{END_TEXT}`, and so must every prompt:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
prompt = tokenizer("{END_TEXT}" + "The best", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt)[0], skip_special_tokens=True))
```

`model.generate()` without a prompt writes a tweet from nothing. It ends with `{END_TEXT}`, or at {context} tokens.'''


def markdown_table(head: tuple[str, str], rows: Table) -> str:
    """A Markdown table of two columns, the second one to the right."""
    return "\n".join([f"| {head[0]} | {head[1]} |", "|:-|-:|", *(f"| {left} | {right} |" for left, right in rows)])


def data_table(data: dict[str, Any]) -> str:
    """The source of the tweets, and how many of them each rule dropped."""
    source, split = data["source"], data["split"]
    files = ", ".join(Path(part).name for part in str(source["path"]).split(", "))
    rows = [(f"rows in `{files}`", f"{source['rows']:,}")]
    rows += [(f"dropped by {rule['rule']}", f"{rule['dropped']:,}") for rule in data["rules"] if rule["dropped"]]
    rows += [("trained on", f"{split['train']:,}"), ("held out for validation", f"{split['val']:,}")]
    rows += [("of all these, cut off by the API: no end is learnt there", f"{len(data['unfinished']):,}")]
    return markdown_table(("tweets", "number"), rows) + (
        f"\n\nDuplicates were dropped before the split, and near-duplicates stay on one side of it "
        f"({split['method']} split, seed {split['seed']}, fingerprint `{split['hash']}`)."
    )


def recipe(bundle: Bundle) -> str:
    """The settings that shaped the training."""
    train, model = bundle.config.train, bundle.config.model
    rows = [(f"train.{key}", f"{getattr(train, key)}") for key in RECIPE]
    rows += [("model.dropout", f"{model.dropout}"), ("model.vocabulary", model.vocabulary)]
    rows += [("kept epoch", f"{bundle.info.get('epoch', '?')}"), ("updates", f"{bundle.info.get('step', 0):,}")]
    return markdown_table(("setting", "value"), rows) + "\n\nOptimiser: AdamW."


def evaluation_text(found: dict[str, Any]) -> str:
    """The figures and the verdict of `evaluate`."""
    val = found["val"]
    low, high = val["interval"]
    rows = [(f"bits per byte, {val['tweets']:,} held-out tweets", f"**{val['bits_per_byte']:.3f}**")]
    rows += [("its 95% interval over tweets", f"{low:.3f} to {high:.3f}")]
    rows += [(f"bits per byte of {name} on the same tweets", f"{v:.3f}") for name, v in found["baselines"].items()]
    rows += [("nats per token", f"{val['nats_per_token']:.3f}"), ("perplexity", f"{val['perplexity']:.1f}")]
    if found.get("stopping"):
        rows += [("tweets that end by themselves", f"{found['stopping']['stop_rate']:.1%}")]
        rows += [("tweets copied word for word", f"{found['memorisation']['exact_copies']:.1%}")]
    return markdown_table(("measure", "value"), rows) + "\n\n" + "\n".join(f"- {line}" for line in found["verdict"])


def training_text(bundle: Bundle) -> str:
    """The figures that training itself measured, for a model that was not evaluated."""
    rows = [
        (label, f"{bundle.info[key]:.3f}")
        for label, key in (
            ("bits per byte on held-out tweets", "val_bits_per_byte"),
            ("nats per token on held-out tweets", "val_nats_per_token"),
            ("nats per token in training", "train_nats_per_token"),
        )
        if key in bundle.info
    ]
    return markdown_table(("measure", "value"), rows) + "\n\nMeasured while it trained; it was not evaluated further."


def limits(bundle: Bundle) -> str:
    """The limits of the model."""
    track, models = origin(bundle)
    scratch = "It learnt English from a few thousand tweets: grammar is shaky, and it knows no facts. "
    tuned = "It knows what its pretraining taught it, mistakes and prejudices included. "
    if models and not bundle.config.model.init_from:
        tuned = "Part of what it knows comes from a pretrained model, mistakes and prejudices included. "
    return (
        f"## Limits\n\n{tuned if track == MODEL else scratch}It may repeat its training tweets, "
        "their tone and their bias. It follows no instructions, and is no source on anything or anyone. "
        "The rights in the tweets are their author's: ask before you share these weights."
    )
