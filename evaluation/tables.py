"""The figures of an evaluation as tables, for the terminal and for results/report.html."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluation.verdict import percent, signed, with_digits
from model.tracks import MODEL, TEXT, TWEETS

SOUND_WORDS = (
    "Fluency gap: bits per byte under the judge, less those of validation tweets of the same lengths; 0 is right, "
    "either sign is wrong.",
    "Voice: bits per byte that the judge saves once it is fine-tuned on validation tweets; another writer has 0, the "
    "person 1, an exaggeration more.",
    "Reverse 3-gram: bits per byte on validation tweets of a 3-gram fitted to as many tweets of the row as there are "
    "training tweets; copying makes it look good, so see the copies beside it.",
    "In brackets 95% intervals over tweets.",
)


@dataclass(frozen=True)
class Section:
    """A table: its title, the heads of its columns, its rows, and a note below it."""

    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def make_sections(result: dict[str, Any]) -> list[Section]:
    """The tables of what `evaluation.evaluate.evaluate` found."""
    found = [prediction_table(result), baseline_table(result), overfitting_table(result)]
    if result["sampling"]["samples"]:
        found += [stopping_table(result), copying_table(result), variety_table(result)]
    if result["judge"]:
        found.append(sound_table(result))
    return found


def prediction_table(result: dict[str, Any]) -> Section:
    """How well validation tweets are predicted."""
    val = result["val"]
    rows = [
        ("bits per byte", with_digits(val["bits_per_byte"])),
        ("  its 95% interval", f"{val['interval'][0]:.3f} to {val['interval'][1]:.3f}"),
        ("nats per token", with_digits(val["nats_per_token"])),
        ("perplexity", with_digits(val["perplexity"], 1)),
        ("nats for an end mark", with_digits(val["eos_nats"])),
        ("probability of the end mark where tweets end", with_digits(val["end_probability"])),
        ("probability of the end mark where they go on", with_digits(val["end_probability_elsewhere"])),
    ]
    note = (
        f"{val['tweets']:,} validation tweets, {val['tokens']:,} tokens, {val['bytes']:,} bytes (one byte is added to "
        f"each tweet for its end); the model has {result['model']['parameters']:,} parameters; its track is "
        f"'{result['model']['track']}'. Lower is better. " + " ".join(map(as_sentence, result["notes"]))
    )
    return Section("How well it predicts unseen tweets", ("", "model"), rows, note.strip())


def baseline_table(result: dict[str, Any]) -> Section:
    """The model among the baselines, best first."""
    order = result["against_ngram"]["order"]
    names = {"ngram": f"{order}-gram, modified Kneser-Ney", "unigram": "unigram", "bigram": "bigram, Kneser-Ney"}
    figures = [(names.get(name, name), TWEETS, bits) for name, bits in result["baselines"].items()]
    if mixed := result["outside_ngram"]:
        figures = [line for line in figures if line[0] != "outside_ngram"]
        name = f"{order}-gram mixed with a 4-gram of outside text ({percent(mixed['share'])} of the mixture)"
        figures.append((name, TEXT, mixed["bits_per_byte"]))
    if result["judge"]:
        zero_shot = result["judge"]["zero_shot"]
        figures.append((f"{result['judge']['name']}, not trained on tweets", MODEL, zero_shot["validation"]))
    figures.append(
        (f"this model ({result['model']['name']})", result["model"]["track"], result["val"]["bits_per_byte"])
    )
    if result["against"]:
        figures.append((result["against"]["model"], result["against"]["track"], result["against"]["theirs"]))
    rows = [(name, track, with_digits(bits)) for name, track, bits in sorted(figures, key=lambda line: line[2])]
    note = f"Difference to the {order}-gram: {signed(result['against_ngram'])}."
    if result["against"]:
        note += f" Difference to {result['against']['model']}: {signed(result['against'])}."
    if result["judge"]:
        note += (
            f" {result['judge']['name']} may have read tweets of this person: as it is, it has "
            f"{with_digits(zero_shot['training'])} on training tweets."
        )
    heads = ("same split", "track", "bits per byte")
    return Section("Beside the baselines", heads, rows, f"{note} Paired bootstrap over tweets.")


def overfitting_table(result: dict[str, Any]) -> Section:
    """Training tweets beside validation tweets."""
    found = result["memorisation"]
    rows = [
        ("training tweets", with_digits(found["train_nats_per_token"])),
        ("validation tweets", with_digits(found["val_nats_per_token"])),
        ("difference", f"{found['gap']['difference']:+.3f}"),
        ("  its 95% interval", f"{found['gap']['low']:+.3f} to {found['gap']['high']:+.3f}"),
        ("AUC of telling the two apart by their nats (0.5: impossible)", with_digits(found["membership_auc"])),
    ]
    note = f"Measured on {found['train_tweets']:,} training tweets, evenly spaced."
    return Section("Does it know its training tweets by heart?", ("", "nats per token"), rows, note)


def sample_heads(result: dict[str, Any]) -> tuple[str, ...]:
    """The heads of a table of samples: as the model writes them, as people see them, and real tweets."""
    return "", "samples", f"best of {result['shown']['best_of']}", "real tweets"


def stopping_table(result: dict[str, Any]) -> Section:
    """Ends and lengths."""
    found, shown = result["stopping"], result["shown"]["stopping"]
    rows = [
        ("ends by itself", *both(percent, found, shown, "stop_rate"), ""),
        (
            "mean length, tokens",
            with_digits(found["mean_length"], 1),
            with_digits(shown["mean_length"], 1),
            with_digits(found["real_mean_length"], 1),
        ),
        ("difference of the length distributions (KS, 0 to 1)", *both(with_digits, found, shown, "length_ks"), ""),
        ("ends like a sentence", *both(percent, found, shown, "sentence_end"), percent(found["real_sentence_end"])),
        ("empty", *both(percent, found, shown, "empty"), ""),
    ]
    drawn = result["sampling"]
    note = (
        f"{drawn['samples']:,} samples without a prompt at temperature {drawn['temperature']:g}, top_p "
        f"{drawn['top_p']:g}, top_k {drawn['top_k']}, at most {drawn['max_new_tokens']} tokens. A tweet that was cut "
        f"counts as at least that long. Best of {result['shown']['best_of']}: {result['shown']['samples']:,} tweets as "
        "people see them, see generate.best_of; the sentences and all other figures are of the samples."
    )
    return Section("Does it stop?", sample_heads(result), rows, note)


def both(form: Callable[[float], str], found: dict[str, Any], shown: dict[str, Any], name: str) -> tuple[str, str]:
    """A figure of the samples, and the same of the tweets as people see them."""
    return form(found[name]), form(shown[name])


def copying_table(result: dict[str, Any]) -> Section:
    """Copies from the training tweets."""
    found, shown = result["memorisation"], result["shown"]["memorisation"]
    rows: list[tuple[str, ...]] = [
        ("is a training tweet", *both(percent, found, shown, "exact_copies"), percent(found["real_exact_copies"])),
        ("is an earlier tweet, before duplicates were dropped", "", "", percent(found["real_repeats"])),
        (
            "shares 8 words in a row with one",
            *both(percent, found, shown, "ngram8_in_train"),
            percent(found["real_ngram8_in_train"]),
        ),
    ]
    for name, key, digits in (("mean", "mean", 1), ("95th percentile", "p95", 0)):
        figures = (found[f"longest_copy_{key}"], shown[f"longest_copy_{key}"], found[f"real_longest_copy_{key}"])
        rows.append((f"longest copied span, words, {name}", *(with_digits(figure, digits) for figure in figures)))
    note = (
        "Real tweets are the validation tweets. Tweets much like a training tweet were put on its side of the split, "
        f"so their figures are low: of the training tweets {percent(found['train_ngram8_in_train'])} share 8 words "
        "in a row with another one."
    )
    return Section("Does it copy?", sample_heads(result), rows, note)


def variety_table(result: dict[str, Any]) -> Section:
    """Differences between samples."""
    found, shown = result["diversity"], result["shown"]["diversity"]
    rows = [("different from each other", *both(percent, found, shown, "unique"), "")]
    for length, name in ((1, "tokens"), (2, "pairs of tokens"), (3, "triples of tokens")):
        key = f"distinct{length}"
        rows.append((f"different {name}", *both(percent, found, shown, key), percent(found[f"real_{key}"])))
    rows.append(
        (
            "AUC of a classifier of samples and real tweets (0.5: a guess)",
            *both(with_digits, found, shown, "classifier_auc"),
            "",
        )
    )
    return Section("Does it vary?", sample_heads(result), rows, "Tokens, pairs and triples: of equally many tweets.")


def sound_table(result: dict[str, Any]) -> Section:
    """Fluency, voice and reverse n-gram of the samples and of references."""
    found, drawn, model = result["judge"], result["sampling"], result["model"]
    how = f"this model, temperature {drawn['temperature']:g}, top_p {drawn['top_p']:g}"
    names = {
        "sampled": ("this model, temperature 1", model["track"]),
        "raw": (how, model["track"]),
        "shipped": (f"{how}, the best of {result['shown']['best_of']}", model["track"]),
        "validation": ("validation tweets", "real tweets"),
        "training": ("training tweets", "real tweets"),
        "other_writer": ("tweets of another writer", "real tweets"),
        "shuffled": ("training tweets, words shuffled", "real tweets"),
    }
    rows = []
    for key, line in found["lists"].items():
        gap, voice, reverse = line["fluency_gap"], line["voice"], line["reverse_ngram"]
        rows.append(
            (
                *names[key],
                f"{gap['difference']:+.2f} ({gap['low']:+.2f} to {gap['high']:+.2f})" if gap else "-",
                f"{voice['value']:.2f} ({voice['low']:.2f} to {voice['high']:.2f})" if voice else "-",
                f"{reverse['bits_per_byte']:.3f}" if reverse else "-",
                percent(line["exact_copies"]),
                percent(line["ngram8_in_train"]),
            )
        )
    heads = ("", "track", "fluency gap", "voice", "reverse 3-gram", "copies", "8 words copied")
    note = " ".join([f"The judge is {found['name']}.", *SOUND_WORDS, *map(as_sentence, found["notes"])])
    return Section("Does it sound like the person?", heads, rows, note)


def as_sentence(text: str) -> str:
    """A note as a sentence: a capital letter at its beginning, a full stop at its end."""
    return f"{text[0].upper()}{text[1:]}."


def print_result(result: dict[str, Any]) -> None:
    """Print the tables and the verdict on standard output."""
    console = Console(highlight=False, markup=False)
    for section in make_sections(result):
        table = Table(title=section.title, title_justify="left", title_style="bold", caption=section.note or None)
        table.caption_justify = "left"
        for column, head in enumerate(section.heads):
            table.add_column(head, justify="right" if column else "left")
        for row in section.rows:
            table.add_row(*row)
        console.print(table)
        console.print()
    for line in result["verdict"]:
        console.print(f"- {line}")
