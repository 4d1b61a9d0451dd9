"""The tab About: how the model was made, its limits, and that what it writes is parody."""

from collections.abc import Iterator
from pathlib import Path

import gradio as gr
from markupsafe import Markup

from config.schema import PathsConfig, UserError
from generate.copies import RULES
from inspection.page import model_summary
from model.checkpoint import Bundle
from model.language_model import LanguageModel
from model.tracks import origin
from model.transformer import GPT
from utils.preprocess import load_processed
from web.templates import figures_table, render, source_name

WARNING = (
    "This is a parody machine. It imitates the style of some tweets and knows nothing. What it makes up was not said "
    "by the person whose tweets it learnt from, or by anybody else; don't pass it off as theirs."
)
LIMITS = (
    "It learnt from a few thousand short texts, so it knows little of the world, and nothing after they were written.",
    "Its facts are accidents: names, numbers and dates are only what often stood together.",
    f"It can repeat training tweets, short ones most of all. {RULES}",
    "What was offensive or wrong in the tweets can come back.",
    "It reads and writes one tweet at a time, mostly in English, and can't follow instructions.",
)
FILES = (
    ("README.md", "how to train it on your own tweets, measure it and take it elsewhere"),
    ("docs/how_it_works.md", "a tour of the transformer, for learners"),
    ("config/config.yaml", "every setting, each with its reason"),
    ("results/report.html", "the evaluation, after `python main.py evaluate`"),
)


def model_facts(bundle: Bundle[LanguageModel], paths: PathsConfig) -> Iterator[tuple[str, str]]:
    """How the model was made, as (fact, value)."""
    shape, recipe, data, info = bundle.model.config, bundle.config.train, bundle.config.data, bundle.info
    vocabulary = f"{bundle.vocabulary.vocab_size:,} vocabulary entries for GPT-2's 50,257 tokens"
    yield "Kind", kind_of(bundle)
    yield "Shape", model_summary(bundle)
    yield "Sizes", f"width {shape.n_embd}, context {shape.block_size} tokens, {vocabulary}"
    if not isinstance(bundle.model, GPT):
        yield "Tweets", training_tweets(bundle, paths)
        return  # it does not say how it was trained
    if "epoch" in info:
        minutes = f" in {info['seconds'] / 60:.1f} minutes" if "seconds" in info else ""
        yield (
            "Training",
            f"kept after epoch {info['epoch']} of {recipe.epochs} ({info.get('step', 0):,} steps){minutes}",
        )
    yield "Tweets", training_tweets(bundle, paths)
    yield (
        "Recipe",
        (
            f"batches of {recipe.batch_size}, AdamW at {recipe.learning_rate:g}, dropout {shape.dropout:g}, "
            f"weight decay {recipe.weight_decay:g}"
        ),
    )
    yield (
        "Split",
        (
            f"{100 * data.val_fraction:.0f}% of the tweets kept aside ({data.split}, seed {data.split_seed}); "
            f"no tweet or near copy on both sides; fingerprint {info.get('split_hash', 'unknown')}"
        ),
    )


def kind_of(bundle: Bundle[LanguageModel]) -> str:
    """What the model is, and what it owes to other models and texts."""
    track, models = origin(bundle)
    others = f" ({track}: {', '.join(Path(name).name for name in models)})" if models else f" ({track})"
    if not isinstance(bundle.model, GPT):
        return "a pretrained model of Hugging Face" + others
    return "a GPT-2 transformer, trained on this machine's tweets" + others


def training_tweets(bundle: Bundle[LanguageModel], paths: PathsConfig) -> str:
    """The tweets that it was trained on, if they are still in this folder."""
    try:
        info = load_processed(paths).info
    except UserError:
        info = {}
    if not info or info["split"]["hash"] != bundle.info.get("split_hash"):
        return "not those that are in this folder now"
    kind = "invented posts" if info["source"].get("fiction") else "posts"
    return f"{info['split']['train']:,} {kind} of {source_name(info['source'])}"


def about(bundle: Bundle[LanguageModel], paths: PathsConfig) -> Markup:
    """The whole tab."""
    facts = figures_table(("fact", "value"), model_facts(bundle, paths), kind="words")
    return render("about.html", warning=WARNING, facts=facts, limits=LIMITS, files=FILES)


class AboutTab:
    """The tab's layout."""

    def __init__(self, bundle: Bundle[LanguageModel], paths: PathsConfig) -> None:
        gr.HTML(about(bundle, paths), elem_id="about")
