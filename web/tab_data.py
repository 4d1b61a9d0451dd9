"""The tab Data: what cleaning did, with examples; how long the tweets are; and the tokenizer at work."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr

from config.schema import DataConfig, PathsConfig, UserError
from inspection.page import label
from model.checkpoint import Bundle
from utils.clean import Cleaner
from utils.filters import Filters
from utils.preprocess import Corpus, load_processed
from utils.sources import read_posts
from utils.split import normal_form
from web.charts import histogram
from web.markup import Markup, joined, notice, table, tag

ROWS = 3_000  # rows of the source that are looked through for examples
EXAMPLES = 2  # of each rule
LONGEST = 140  # characters of an example shown
AROUND = 24  # characters shown before and after what a rule changed
EMOJI_PARTS = "\u200d\ufe0f"  # not printable by themselves, but inside an emoji
BINS = 24
TYPED = "The rocket's 3rd launch was GREAT 🚀"
SOURCE_GONE = "The file these tweets came from is not there any more, so there are no examples of what each rule did."


@dataclass
class Examples:
    """Texts before and after each rule; one that has no after was dropped."""

    found: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, rule: str, before: str, after: str) -> None:
        """Keep it, if there is room."""
        texts = self.found.setdefault(rule, [])
        if len(texts) < EXAMPLES:
            texts.append((before, after))


def find_examples(info: dict[str, Any]) -> Examples:
    """Run the rules again over the first rows of the source, one after the other.

    Raises:
        UserError: the source can't be read any more.
    """
    settings, examples, seen = DataConfig(**info["settings"]), Examples(), set[str]()
    for name in [file["path"] for file in info["source"].get("files", [info["source"]])]:
        if not Path(name).exists():
            raise UserError(SOURCE_GONE)
        opened, filters = read_posts(name, settings), Filters(settings)
        private = opened.private if settings.mask_private is None else settings.mask_private
        cleaner = Cleaner(settings, private=private)
        for post in islice(opened.posts, ROWS):
            if stopped := filters.stopped_by(post):
                examples.add(stopped, post.text, "")
                continue
            text = cleaned(post.text, cleaner, examples)
            form = normal_form(text) if text else ""
            if form in seen:
                examples.add("duplicates", text, "")
            seen.add(form)
    return examples


def cleaned(text: str, cleaner: Cleaner, examples: Examples) -> str:
    """The text after one pass of the rules; what each did goes to the examples."""
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
    """A text on one line, in which line ends and invisible characters can be seen."""
    text = text.replace("\r\n", "\n").replace("\n", "↵")
    return "".join(c if c.isprintable() or c in EMOJI_PARTS else f"‹{ord(c):X}›" for c in text)


def alike(left: str, right: str) -> int:
    """How many characters two texts have in common at their beginnings."""
    pairs = zip(left, right, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def change(before: str, after: str) -> Markup:
    """What a rule made of a text: where it differs, and a few words around."""
    if not after:
        return joined([tag("del", visible(shorten(before, LONGEST))), " → ", tag("em", "dropped")])
    same = alike(before, after)
    tail = alike(before[same:][::-1], after[same:][::-1])
    first = max(0, before.rfind(" ", 0, max(0, same - AROUND)) + 1)
    ends = before.find(" ", len(before) - tail + AROUND) if tail > AROUND else -1
    rest = len(before) - ends if ends >= 0 else 0
    parts = []
    for text in (before, after):
        middle = shorten(text[first : len(text) - rest], LONGEST)
        parts.append(visible(("… " if first else "") + middle + (" …" if rest else "")))
    return joined([tag("del", parts[0]), " → ", tag("ins", parts[1])])


def shorten(text: str, longest: int) -> str:
    """A text of `longest` characters at most."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def rule_cell(pairs: Sequence[tuple[str, str]]) -> Markup:
    """The examples of one rule."""
    return tag("ul", *(tag("li", change(*pair)) for pair in pairs), class_="examples") if pairs else Markup("")


def rules_table(info: dict[str, Any]) -> Markup:
    """What each rule did, and to which tweets."""
    try:
        examples, why = find_examples(info), []
    except (UserError, OSError) as error:
        examples, why = Examples(), [notice(str(error))]
    rows = [
        (
            line["rule"],
            *(f"{line[key]:,}" for key in ("changed", "dropped", "kept")),
            rule_cell(examples.found.get(line["rule"], ())),
        )
        for line in info["rules"]
    ]
    return joined([*why, table(("rule", "changed", "dropped", "left", "for example"), rows, class_="rules")])


def lengths(corpus: Corpus, measure: Callable[[list[str]], list[int]], *, title: str, unit: str) -> Markup:
    """How long the tweets of both sides are; the last bars hold all that are longer than nearly all others."""
    sides = [measure([tweet.text for tweet in side]) for side in (corpus.train, corpus.val)]
    everything = sorted(length for side in sides for length in side)
    width = max(1, -(-everything[int(0.99 * len(everything))] // BINS))
    counts = [Counter(min(length // width, BINS) for length in side) for side in sides]
    last = max(max(count, default=0) for count in counts)
    bars = [
        (f"{width * i}{'+' if i == BINS else ''}", [count[i] / max(1, count.total()) for count in counts])
        for i in range(last + 1)
    ]
    names = (f"training ({len(sides[0]):,})", f"validation ({len(sides[1]):,})")
    return histogram(bars, names, title=title, x_name=unit)


def characters(texts: list[str]) -> list[int]:
    """How many characters each text has."""
    return [len(text) for text in texts]


def tokens_view(bundle: Bundle, text: str) -> Markup:
    """The tokens of a text as chips with their ids; those without a row of their own in the model are dashed."""
    try:
        ids = bundle.tokenizer.encode(text)
    except UserError as error:
        return notice(str(error))
    shared = bundle.vocabulary.is_shared[bundle.vocabulary.from_gpt2(ids)].tolist() if ids else []
    chips = [
        tag(
            "li",
            tag("span", label(bundle.tokenizer, index), class_="word"),
            tag("small", str(index)),
            class_="chip unseen" if unseen else "chip",
            style=f"--colour: var(--series-{place % 6})",
            title="not in the training tweets" if unseen else None,
        )
        for place, (index, unseen) in enumerate(zip(ids, shared, strict=True))
    ]
    facts = f"{len(ids):,} tokens, {len(text):,} characters, {len(text.encode()):,} bytes"
    if any(shared):
        facts += f"; {sum(shared):,} dashed: never in the training tweets, so they share a row of the model"
    return joined([tag("ol", *chips, class_="chips"), tag("p", facts, class_="caption")])


class DataTab:
    """Lays the tab out; the table is made when the tab is first opened."""

    def __init__(self, bundle: Bundle, paths: PathsConfig) -> None:
        self.bundle, self.paths = bundle, paths
        gr.HTML(tag("h2", "The tokenizer at work"))
        typed = gr.Textbox(
            TYPED,
            label="Type something",
            info="GPT-2's tokenizer cuts it into pieces; a dot (·) is a space, ‹F0› a byte",
            lines=2,
            max_length=2000,
            elem_id="typed",
        )
        chips = gr.HTML(tokens_view(bundle, TYPED), elem_id="chips")
        # `input` may be told before the box has its new value, and would send the text without its last letter;
        # two that are asked at once would be answered in any order without the queue.
        typed.change(
            lambda text: tokens_view(bundle, text or ""),
            typed,
            chips,
            trigger_mode="always_last",
            show_progress="hidden",
            api_visibility="private",
        )
        self.view = gr.HTML(notice("Looking ..."), elem_id="data")
        self.first = (self.show, None, self.view)

    def tokens(self, texts: list[str]) -> list[int]:
        """How many tokens each text has."""
        return [len(ids) for ids in self.bundle.tokenizer.encode_batch(texts)]

    def show(self) -> Markup:
        """Where the tweets came from, what the rules did, and how long they are."""
        try:
            corpus = load_processed(self.paths)
        except UserError as error:
            return joined([tag("h2", "Cleaning"), notice(str(error))])
        source = corpus.info["source"]
        told = f"{source['rows']:,} rows of {source['path']} ({source['encoding']})"
        told += "; invented posts." if source.get("fiction") else "."
        split = corpus.info["split"]
        halves = (
            f"{split['train']:,} tweets to learn from, {split['val']:,} kept aside; near copies are on the same side."
        )
        return joined(
            [
                tag("h2", "Cleaning"),
                tag("p", f"{told} {halves}", class_="caption"),
                rules_table(corpus.info),
                tag("h2", "Lengths"),
                tag(
                    "div",
                    lengths(corpus, characters, title="How long the tweets are", unit="characters"),
                    lengths(corpus, self.tokens, title="... and in tokens", unit="tokens"),
                    class_="charts",
                ),
            ]
        )
