"""The tab Data: what each cleaning rule does and did, with examples; how long the tweets are."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from config.schema import DataConfig, PathsConfig, UserError
from model.checkpoint import Bundle
from model.language_model import LanguageModel
from utils.clean import Cleaner
from utils.filters import Filters
from utils.preprocess import Corpus, load_processed
from utils.sources import read_posts
from utils.split import normal_form
from web.charts import bar_chart
from web.templates import figures_table, notice, public, render, source_name

ROWS_SEARCHED = 3_000  # first rows of the source in which examples are looked for
EXAMPLES_PER_RULE = 2
EXAMPLE_LENGTH = 140  # characters at most
CONTEXT_LENGTH = 24  # characters shown before and after what a rule changed
EMOJI_PARTS = "\u200d\ufe0f"  # not printable by themselves, but inside an emoji
MOST_BINS = 24  # of a chart of lengths; longer tweets share the last one
RULES = {  # in a sentence each; the names are those of utils/filters.py, utils/clean.py and utils/preprocess.py
    "drop_retweets": "Retweets are left out: somebody else wrote them.",
    "replies": "Replies are left out.",
    "min_likes": "Tweets with too few likes are left out.",
    "since/until": "Only tweets of a certain time are kept.",
    "languages": "Only tweets in certain languages are kept.",
    "decode_entities": "Codes such as &amp; become the characters they stand for.",
    "fix_mojibake": "Characters that were read in the wrong encoding are repaired.",
    "end_marks": "The mark that ends a tweet is removed where it stands in the text.",
    "tidy": "Line breaks and runs of spaces become one space; invisible characters go.",
    "trim_cutoff": "Where the API cut a tweet, its broken last word goes, and the model learns no end there.",
    "drop_links": "Links are removed: their letters are random.",
    "mask_emails": "E-mail addresses become [email].",
    "mask_phones": "Phone numbers become [phone].",
    "mask_streets": "Street addresses become [address].",
    "drop_mentions": "@names are removed: they say who is addressed.",
    "hashtags": "Hashtags lose their sign and keep their word, or go as a whole (data.hashtags).",
    "fold_typography": "Curly quotes and long dashes become plain ones, so that a mark is always the same token.",
    "min_chars": "Tweets that are nearly empty by now are left out.",
    "punctuate": "A tweet that ends without punctuation gets a full stop.",
    "duplicates": "Of tweets with the same words, one is kept.",
}
SOURCE_GONE = "The file these tweets came from is not there any more, so there are no examples of what each rule did."


@dataclass
class RuleExamples:
    """For each rule some texts before and after it; an empty text after it means that the tweet was dropped."""

    found: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, rule: str, before: str, after: str) -> None:
        """Keep this example, unless the rule has enough."""
        texts = self.found.setdefault(rule, [])
        if len(texts) < EXAMPLES_PER_RULE:
            texts.append((before, after))


def find_examples(info: dict[str, Any]) -> RuleExamples:
    """Apply the rules again to the first rows of the source, and keep examples of what they change.

    Raises:
        UserError: the source is not there any more, or can't be read.
    """
    settings, examples, seen = DataConfig(**info["settings"]), RuleExamples(), set[str]()
    for name in [file["path"] for file in info["source"].get("files", [info["source"]])]:
        if not Path(name).exists():
            raise UserError(SOURCE_GONE)
        opened, filters = read_posts(name, settings), Filters(settings)
        private = opened.private if settings.mask_private is None else settings.mask_private
        cleaner = Cleaner(settings, private=private)
        for post in islice(opened.posts, ROWS_SEARCHED):
            if stopped := filters.stopped_by(post):
                examples.add(stopped, post.text, "")
                continue
            text = clean_with_examples(post.text, cleaner, examples)
            form = normal_form(text) if text else ""
            if form in seen:
                examples.add("duplicates", text, "")
            seen.add(form)
    return examples


def clean_with_examples(text: str, cleaner: Cleaner, examples: RuleExamples) -> str:
    """The text after the rules; each change is added to the examples."""
    finished = True
    for name, rule in cleaner.rules:
        if name == "punctuate" and not finished:
            continue
        after = rule(text)
        if after != text:
            examples.add(name, text, after)
            finished = finished and name != "trim_cutoff"
        if not after:
            return ""
        text = after
    return text


def visible(text: str) -> str:
    """A text on one line, with signs for line breaks and invisible characters."""
    text = text.replace("\r\n", "\n").replace("\n", "↵")
    return "".join(c if c.isprintable() or c in EMOJI_PARTS else f"‹{ord(c):X}›" for c in text)


def common_start(left: str, right: str) -> int:
    """How many characters at their start two texts have in common."""
    pairs = zip(left, right, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def change(before: str, after: str) -> Markup:
    """The change of a text by a rule as HTML: the part that differs, with a few words around it."""
    if not after:
        return Markup("<del>{}</del> → <em>dropped</em>").format(visible(shorten(before, EXAMPLE_LENGTH)))
    same = common_start(before, after)
    tail = common_start(before[same:][::-1], after[same:][::-1])
    first = max(0, before.rfind(" ", 0, max(0, same - CONTEXT_LENGTH)) + 1)
    ends = before.find(" ", len(before) - tail + CONTEXT_LENGTH) if tail > CONTEXT_LENGTH else -1
    rest = len(before) - ends if ends >= 0 else 0
    parts = []
    for text in (before, after):
        middle = shorten(text[first : len(text) - rest], EXAMPLE_LENGTH)
        parts.append(visible(("… " if first else "") + middle + (" …" if rest else "")))
    return Markup("<del>{}</del> → <ins>{}</ins>").format(*parts)


def shorten(text: str, longest: int) -> str:
    """The text, cut to `longest` characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def rules_table(info: dict[str, Any], paths: PathsConfig) -> Markup:
    """How many tweets each rule changed, dropped and left, with examples."""
    try:
        examples, problem = find_examples(info), Markup()
    except (UserError, OSError) as error:
        examples, problem = RuleExamples(), notice(public(str(error), paths))
    rows = []
    for line in info["rules"]:
        items = [Markup("<li>{}</li>").format(change(*pair)) for pair in examples.found.get(line["rule"], ())]
        shown = Markup('<ul class="examples">{}</ul>').format(Markup().join(items)) if items else ""
        rule = Markup("{}<small>{}</small>").format(line["rule"], RULES.get(line["rule"], ""))
        rows.append((rule, *(f"{line[key]:,}" for key in ("changed", "dropped", "kept")), shown))
    return problem + figures_table(("rule", "changed", "dropped", "left", "for example"), rows, kind="rules")


def length_chart(corpus: Corpus, measure: Callable[[list[str]], list[int]], *, title: str, unit: str) -> Markup:
    """How long the training and validation tweets are; the last bin holds all tweets longer than nearly all others.

    Args:
        measure: gives the length of each text.
    """
    sides = [measure([tweet.text for tweet in side]) for side in (corpus.train, corpus.val)]
    all_lengths = sorted(length for side in sides for length in side)
    width = max(1, -(-all_lengths[int(0.99 * len(all_lengths))] // MOST_BINS))
    counts = [Counter(min(length // width, MOST_BINS) for length in side) for side in sides]
    bins = range(1 + max(max(count, default=0) for count in counts))
    series = [
        (f"{name} ({len(side):,})", [count[i] / max(1, count.total()) for i in bins])
        for name, side, count in zip(("training", "validation"), sides, counts, strict=True)
    ]
    labels = [f"{width * i}{'+' if i == MOST_BINS else ''}" for i in bins]
    return bar_chart(labels, series, title=title, x_name=unit, y_name="share of tweets")


def character_counts(texts: list[str]) -> list[int]:
    """The number of characters of each text."""
    return [len(text) for text in texts]


class DataTab:
    """The tab's layout; the table and the charts are made when the tab is opened."""

    def __init__(self, bundle: Bundle[LanguageModel], paths: PathsConfig) -> None:
        self.bundle, self.paths = bundle, paths
        self.view = gr.HTML(notice("Looking ..."), elem_id="data")
        self.first = (self.show, None, self.view)

    def token_counts(self, texts: list[str]) -> list[int]:
        """The number of tokens of each text."""
        return [len(ids) for ids in self.bundle.tokenizer.encode_batch(texts)]

    def show(self) -> Markup:
        """The source of the tweets, what the rules did, and charts of the tweets' lengths."""
        try:
            corpus = load_processed(self.paths)
        except UserError as error:
            return Markup("<h2>Cleaning</h2>") + notice(public(str(error), self.paths))
        source, split = corpus.info["source"], corpus.info["split"]
        kind = "; invented posts" if source.get("fiction") else ""
        caption = (
            f"{source['rows']:,} rows of {source_name(source)} ({source['encoding']}){kind}. {split['train']:,} tweets "
            f"to train on, {split['val']:,} to validate on; near copies are on the same side."
        )
        charts = [
            length_chart(corpus, character_counts, title="How long the tweets are", unit="characters"),
            length_chart(corpus, self.token_counts, title="How long they are in tokens", unit="tokens"),
        ]
        return render("data.html", caption=caption, rules=rules_table(corpus.info, self.paths), charts=charts)
