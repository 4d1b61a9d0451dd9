"""What each rule of preprocessing did: the counts, and the report on stderr."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.source import Source

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class Tally:
    """What each rule did: how many tweets it changed and dropped, and the first few of each."""

    keep: int = 1  # examples of dropped tweets to keep, for each rule
    changed: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    changes: dict[str, str] = field(default_factory=dict)
    drops: dict[str, list[str]] = field(default_factory=dict)

    def change(self, rule: str, text: str) -> None:
        """Count a tweet that `rule` changed."""
        self.changed[rule] += 1
        self.changes.setdefault(rule, text[:500])

    def drop(self, rule: str, text: str) -> None:
        """Count a tweet that went at `rule`."""
        self.dropped[rule] += 1
        examples = self.drops.setdefault(rule, [])
        if len(examples) < self.keep:
            examples.append(text[:500])

    def table(self, rules: list[str], rows: int) -> list[dict[str, Any]]:
        """One dict a rule, in order: rule, changed, dropped, kept (rows left after it)."""
        lines = []
        for rule in rules:
            rows -= self.dropped[rule]
            lines.append({"rule": rule, "changed": self.changed[rule], "dropped": self.dropped[rule], "kept": rows})
        return lines


def report(sources: Sequence[Source], tally: Tally, warnings: Sequence[str], info: dict[str, Any], path: Path) -> None:
    """Print the sources, the table of rules, the warnings and the split to stderr.

    Args:
        info: the content of processed.json.
        path: of processed.txt.
    """
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for source in sources:
        column = f", column {source.column!r}" if source.column else ""
        fiction = "; invented posts" if source.fiction else ""
        console.print(
            escape(f"Read {source.path}: {source.kind}, {source.rows:,} rows, {source.encoding}{column}{fiction}")
        )
        for note in source.notes:
            console.print(escape(f"  note: {note}"))
    console.print(rules_table(info["rules"], tally, room=max(20, console.width - 52)))
    for line in warnings:
        console.print(escape(f"note: {line}"))
    for rule, texts in tally.drops.items() if info["settings"]["show_dropped"] else ():
        console.print(f"Dropped by {rule} ({len(texts):,} of {tally.dropped[rule]:,}):")
        for text in texts:
            console.print(escape(f"  {' '.join(text.split())}"))
    split = info["split"]
    console.print(
        f"Split ({split['method']}, seed {split['seed']}): {split['train']:,} train, {split['val']:,} validation; "
        f"no text on both sides ({split['clusters']:,} clusters, the largest has {split['largest_cluster']:,} tweets)"
    )
    console.print(f"Wrote {path}: {len(info['unfinished']):,} tweets are cut off and teach no end")


def rules_table(rules: Sequence[dict[str, Any]], tally: Tally, *, room: int) -> "Table":
    """The table of the rules, each with an example of at most `room` columns of the terminal."""
    from rich.cells import cell_len, set_cell_size
    from rich.markup import escape
    from rich.table import Table

    table = Table("rule", box=None, pad_edge=False)
    for name in ("changed", "dropped", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("for example", no_wrap=True)
    for line in rules:
        rule = line["rule"]
        example = " ".join((tally.drops.get(rule) or [tally.changes.get(rule, "")])[0].split())
        if cell_len(example) > room:  # a Chinese character takes two columns
            example = set_cell_size(example, room - 1) + "…"
        cells = [f"{line[key]:,}" for key in ("changed", "dropped", "kept")]
        table.add_row(rule, *cells, escape(example))
    return table
