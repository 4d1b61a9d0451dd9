"""How much written text is of use: `python -m benchmarks.probe --csv data/elon_tweets.csv --root some/folder`.

The folder is that of benchmarks.teacher, with a teacher that has written. An n-gram of what it wrote is mixed with one
of the real tweets, once with 1 written tweet for each real one, once with 2, and so on. Its bits per byte on validation
tweets are had in seconds: where they stop falling, a student gains little from more. The share is chosen on training
tweets, which the teacher knows, so it is a little too high. Prints a Markdown table.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.teacher import context_of, teacher_of
from benchmarks.timing import table
from evaluation.outside_ngram import measure_outside_ngram
from model.hub import SMOLLM2
from trainer.job import NGRAM_ORDER
from utils.preprocess import Tweet

HEADS = ["split", "written for each real one", "tweets", "bits per byte", "share of what was written"]


def rows_of(options: argparse.Namespace, split: int) -> list[list[str]]:
    """The table's rows of a split."""
    most = max(options.sampled)
    context = context_of(options, split=split, seed=0, sampled=most, size="2x256")
    drafts = teacher_of(options, context, split).drafts
    written = [Tweet(draft.text(context.tokenizer), True) for draft in drafts]
    corpus, rows = context.corpus, []
    for sampled in sorted(options.sampled):
        some: Sequence[Tweet] = written[: round(sampled * len(corpus.train))]
        found = measure_outside_ngram(corpus.train, corpus.val, some, context.tokenizer, order=NGRAM_ORDER)
        rows.append(
            [str(split), f"{sampled:g}", f"{found.texts:,}", f"{found.bits_per_byte:.3f}", f"{found.share:.0%}"]
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--teacher", default=SMOLLM2)
    parser.add_argument("--splits", type=int, nargs="+", default=[0])
    parser.add_argument("--sampled", type=float, nargs="+", default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("flags", nargs="*", help="settings for distill, after --")
    options = parser.parse_args()
    print(table(HEADS, [row for split in options.splits for row in rows_of(options, split)]))


if __name__ == "__main__":
    main()
