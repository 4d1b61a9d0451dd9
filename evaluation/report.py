"""An evaluation for people: tables on a terminal, and results/report.html, one file that needs nothing else."""

import base64
import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from evaluation.metrics import Written, copied_tokens, spread
from evaluation.verdict import percent, signed
from generate.copies import CopyCheck
from model.tokenizer import Tokenizer
from utils.files import atomic_write

SHOWN = 30  # samples on the page
BINS = 25  # bars of the length histogram
TEMPLATE = Path(__file__).with_name("report_template.html")


@dataclass(frozen=True)
class Section:
    """A table: its title, the heads of its columns, its rows, and a line below it."""

    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def sections(result: dict[str, Any]) -> list[Section]:
    """The figures of `evaluation.evaluate`, arranged for reading."""
    found = [quality(result), ladder(result), overfitting(result)]
    if result["sampling"]["samples"]:
        found += [stopping_table(result), copying_table(result), variety_table(result)]
    return found


def quality(result: dict[str, Any]) -> Section:
    """How well validation tweets are predicted."""
    val = result["val"]
    rows = [
        ("bits per byte", f"{val['bits_per_byte']:.3f}"),
        ("  its 95% interval", f"{val['interval'][0]:.3f} to {val['interval'][1]:.3f}"),
        ("nats per token", f"{val['nats_per_token']:.3f}"),
        ("perplexity", f"{val['perplexity']:.1f}"),
        ("nats for an end mark", number(val["eos_nats"])),
        ("probability of the end mark where tweets end", number(val["end_probability"])),
        ("probability of the end mark where they go on", number(val["end_probability_elsewhere"])),
    ]
    note = (
        f"{val['tweets']:,} validation tweets, {val['tokens']:,} tokens, {val['bytes']:,} bytes "
        f"(one more a tweet for its end); {result['model']['parameters']:,} parameters. Lower is better. "
        + " ".join(map(sentence, result["notes"]))
    )
    return Section("How well it predicts tweets it has not seen", ("", "model"), rows, note.strip())


def ladder(result: dict[str, Any]) -> Section:
    """The model among the baselines, best first."""
    order = result["against_ngram"]["order"]
    names = {"ngram": f"{order}-gram, modified Kneser-Ney", "unigram": "unigram", "bigram": "bigram, Kneser-Ney"}
    figures = {names.get(name, name): bits for name, bits in result["baselines"].items()}
    figures[f"this model ({result['model']['name']})"] = result["val"]["bits_per_byte"]
    if result["against"]:
        figures[result["against"]["model"]] = result["against"]["theirs"]
    rows = [(name, f"{bits:.3f}") for name, bits in sorted(figures.items(), key=lambda item: item[1])]
    note = f"The model less the {order}-gram: {signed(result['against_ngram'])}."
    if result["against"]:
        note += f" The model less {result['against']['model']}: {signed(result['against'])}."
    return Section(
        "Beside the baselines", ("bits per byte, same split", ""), rows, f"{note} Paired bootstrap over tweets."
    )


def overfitting(result: dict[str, Any]) -> Section:
    """Training tweets beside validation tweets."""
    copied = result["memorisation"]
    rows = [
        ("training tweets", f"{copied['train_nats_per_token']:.3f}"),
        ("validation tweets", f"{copied['val_nats_per_token']:.3f}"),
        ("gap", f"{copied['gap']['difference']:+.3f}"),
        ("  its 95% interval", f"{copied['gap']['low']:+.3f} to {copied['gap']['high']:+.3f}"),
        ("the two told apart by their cost (AUC, 0.5: not)", number(copied["membership_auc"])),
    ]
    note = f"Measured on {copied['train_tweets']:,} training tweets, evenly spaced."
    return Section("Does it know its training tweets by heart?", ("", "nats per token"), rows, note)


def stopping_table(result: dict[str, Any]) -> Section:
    """Ends and lengths."""
    found = result["stopping"]
    rows = [
        ("ends by itself", share(found["stop_rate"]), ""),
        ("mean length, tokens", number(found["mean_length"], 1), number(found["real_mean_length"], 1)),
        ("distance of the lengths (KS, 0 to 1)", number(found["length_ks"]), ""),
        ("ends like a sentence", share(found["sentence_end"]), share(found["real_sentence_end"])),
        ("empty", share(found["empty"]), ""),
    ]
    drawn = result["sampling"]
    note = (
        f"{drawn['samples']:,} samples from nothing at temperature {drawn['temperature']:g}, top_p {drawn['top_p']:g}, "
        f"top_k {drawn['top_k']}, at most {drawn['max_new_tokens']} tokens. Cut tweets count as at least that long."
    )
    return Section("Does it stop?", ("", "samples", "real tweets"), rows, note)


def copying_table(result: dict[str, Any]) -> Section:
    """Copies from the training tweets."""
    found = result["memorisation"]
    rows = [
        ("is a training tweet", share(found["exact_copies"]), share(found["real_exact_copies"])),
        ("is an earlier tweet, before duplicates were dropped", "", share(found["real_repeats"])),
        ("shares 8 tokens in a row with one", share(found["ngram8_in_train"]), share(found["real_ngram8_in_train"])),
        (
            "longest copied span, mean",
            number(found["longest_copy_mean"], 1),
            number(found["real_longest_copy_mean"], 1),
        ),
        (
            "longest copied span, 95th percentile",
            number(found["longest_copy_p95"], 0),
            number(found["real_longest_copy_p95"], 0),
        ),
    ]
    note = (
        "Real tweets are the validation tweets. Those much like a training tweet were put on its side of the split, "
        f"so this floor is low: of the training tweets {share(found['train_ngram8_in_train'])} share 8 tokens "
        "in a row with another one."
    )
    return Section("Does it copy?", ("", "samples", "real tweets"), rows, note)


def variety_table(result: dict[str, Any]) -> Section:
    """Differences between samples."""
    found = result["diversity"]
    rows = [("different from each other", share(found["unique"]), "")]
    for length, name in ((1, "tokens"), (2, "pairs of tokens"), (3, "triples of tokens")):
        rows.append((f"different {name}", share(found[f"distinct{length}"]), share(found[f"real_distinct{length}"])))
    rows.append(("told from real tweets by a classifier (AUC, 0.5: not)", number(found["classifier_auc"]), ""))
    return Section(
        "Does it vary?", ("", "samples", "real tweets"), rows, "Tokens, pairs and triples: of equally many tweets."
    )


def number(value: float, digits: int = 3) -> str:
    """A figure, or a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def share(value: float) -> str:
    """A share, or a dash where there is none."""
    return "-" if math.isnan(value) else percent(value)


def sentence(text: str) -> str:
    """A note as a sentence."""
    return f"{text[0].upper()}{text[1:]}."


def show(result: dict[str, Any]) -> None:
    """Print tables and verdict to standard output."""
    console = Console(highlight=False, markup=False)
    for section in sections(result):
        table = Table(title=section.title, title_justify="left", title_style="bold", caption=section.note or None)
        table.caption_justify = "left"
        for place, head in enumerate(section.heads):
            table.add_column(head, justify="right" if place else "left")
        for row in section.rows:
            table.add_row(*row)
        console.print(table)
        console.print()
    for line in result["verdict"]:
        console.print(f"- {line}")


def write_report(
    path: Path,
    result: dict[str, Any],
    *,
    samples: Sequence[Written],
    real: Sequence[Written],
    copies: CopyCheck,
    tokenizer: Tokenizer,
    plot: Path | None,
) -> None:
    """Write the page. Everything in it that is not ours, samples above all, is escaped.

    Args:
        plot: a PNG of the losses of this model's training, put in if it is there.
    """
    parts = {
        "title": html.escape(f"How good is {result['model']['name']}?"),
        "verdict": "".join(f"<li>{html.escape(line)}</li>" for line in result["verdict"]),
        "tables": "".join(map(table_html, sections(result))),
        "plot": plot_html(plot),
        "lengths": histogram([len(t.ids) for t in samples], [len(t.ids) for t in real]) if samples else "",
        "samples": samples_html(samples, copies, tokenizer),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], TEMPLATE.read_text(encoding="utf-8"))
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def table_html(section: Section) -> str:
    """One table of the page."""
    heads = "".join(f"<th scope='col'>{html.escape(head)}</th>" for head in section.heads)
    rows = ""
    for first, *others in section.rows:
        own = " class='own'" if first.startswith("this model") else ""
        rows += f"<tr{own}><th scope='row'>{html.escape(first)}</th>"
        rows += "".join(f"<td>{html.escape(cell)}</td>" for cell in others) + "</tr>"
    note = f"<p class='note'>{html.escape(section.note)}</p>" if section.note else ""
    return f"<section><h2>{html.escape(section.title)}</h2><table><tr>{heads}</tr>{rows}</table>{note}</section>"


def plot_html(plot: Path | None) -> str:
    """The loss plot, inside the page."""
    if plot is None or not plot.is_file():
        return ""
    data = base64.b64encode(plot.read_bytes()).decode()
    picture = f"<img alt='loss by epoch' src='data:image/png;base64,{data}'>"
    return f"<section class='wide'><h2>Training</h2><div class='drawing'>{picture}</div></section>"


def histogram(samples: Sequence[int], real: Sequence[int]) -> str:
    """Share of tweets by length, samples beside real ones, as SVG; the last pair of bars holds all that are longer."""
    usual = int(np.quantile([*samples, *real], 0.99))
    width = usual // BINS + 1
    bins = usual // width + 2
    shares = {
        kind: np.bincount(np.minimum(np.asarray(lengths) // width, bins - 1), minlength=bins) / len(lengths)
        for kind, lengths in (("samples", samples), ("real", real))
    }
    top, step = max(float(part.max()) for part in shares.values()), 600 / bins
    drawn = ""
    for place in range(bins):
        span = f"{place * width} or more" if place == bins - 1 else f"{place * width} to {(place + 1) * width - 1}"
        if place % max(1, bins // 8) == 0:
            drawn += f"<text x='{40 + place * step:.1f}' y='178'>{place * width}</text>"
        for side, (kind, part) in enumerate(shares.items()):
            share_here = float(part[place])
            height = 150 * share_here / top
            drawn += (
                f"<rect class='{kind}' x='{40 + (place + 0.42 * side) * step:.1f}' y='{160 - height:.1f}' "
                f"width='{0.42 * step:.1f}' height='{height:.1f}'>"
                f"<title>{span} tokens: {percent(share_here)} of {kind}</title></rect>"
            )
    return (
        "<section class='wide'><h2>Lengths</h2><p class='key'><span class='samples'></span> samples "
        "<span class='real'></span> real tweets; by tokens</p><div class='drawing'>"
        "<svg viewBox='0 0 640 190' role='img' "
        "aria-label='share of tweets by length in tokens'><line x1='36' y1='160.5' x2='640' y2='160.5'/>"
        f"<text x='0' y='18'>{percent(top)}</text><text x='0' y='162'>0%</text>{drawn}</svg></div></section>"
    )


def samples_html(samples: Sequence[Written], copies: CopyCheck, tokenizer: Tokenizer) -> str:
    """Some of the samples, the spans that also stand in training tweets marked."""
    items = ""
    for sample in spread(samples, min(SHOWN, len(samples))):
        flags = copied_tokens(sample.ids, copies)
        text = mark(sample, flags, tokenizer)
        notes = [f"{len(sample.ids)} tokens", *([] if sample.ended else ["cut at the length limit"])]
        if any(flags):
            notes.append(f"{sum(flags)} of them copied")
        if sample.text.strip() and copies.exact(sample.text):
            notes.append("a training tweet word for word")
        items += f"<li><span class='tweet'>{text or '(empty)'}</span><small>{', '.join(notes)}</small></li>"
    if not items:
        return ""
    title = (
        "<h2>Samples</h2><p class='note'>Evenly chosen. Marked: 8 tokens or more in a row "
        "that also stand in a training tweet.</p>"
    )
    return f"<section class='wide'>{title}<ol>{items}</ol></section>"


def mark(sample: Written, flags: Sequence[bool], tokenizer: Tokenizer) -> str:
    """The text with the characters of flagged tokens in <mark>, everything escaped."""
    pairs = zip(sample.ids, flags, strict=True)
    per_byte = [flag for index, flag in pairs for _ in tokenizer.token_bytes[index]]
    done, marked, place = "", False, 0
    for character in sample.text:
        size = len(character.encode())
        flag = any(per_byte[place : place + size])
        if flag != marked:
            done += "<mark>" if flag else "</mark>"
            marked = flag
        done += html.escape(character)
        place += size
    return done + ("</mark>" if marked else "")
