"""The tab Training: the curves of every run of this root, what it wrote on the way, and what `evaluate` found.

All of it comes from files that other commands write; a timer looks whether one has changed.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr

from config.schema import PathsConfig, UserError
from utils.run_log import read_log
from web.charts import Line, line_chart
from web.markup import Markup, joined, notice, percent, table, tag

NAMES = {"metrics": "train", "distill_metrics": "student", "control_metrics": "control", "usual_metrics": "usual"}
SECONDS = 3.0  # between two looks at the files
NO_RUNS = "No training log yet: `python main.py train` makes one, and its curve grows here while it runs."
NO_EVALUATION = "No evaluation yet: `python main.py evaluate` makes one."
NO_SAMPLES = "The run logs hold no samples."

Record = dict[str, Any]
Signature = tuple[tuple[str, int, int], ...]


def logs(paths: PathsConfig) -> dict[str, Path]:
    """The run logs of this root, by the name of the run."""
    found: dict[str, Path] = {}
    for folder in (paths.results, paths.checkpoints):
        for path in sorted(folder.rglob("*.jsonl"), key=lambda path: (len(path.parts), path.stem != "metrics", path)):
            name = path.relative_to(folder).with_suffix("").as_posix()
            found.setdefault(NAMES.get(name, name), path)
    return found


def signature(paths: PathsConfig) -> Signature:
    """What tells whether anything has changed: names, times and sizes of the files that are shown."""
    files = [*logs(paths).values(), *sorted(paths.results.glob("*.json")), paths.results / "samples.txt"]
    stats = [(str(path), path.stat()) for path in files if path.is_file()]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def read_runs(paths: PathsConfig) -> tuple[dict[str, list[Record]], list[str]]:
    """The records of each run that has measured something, and what is wrong with the other logs."""
    runs, problems = {}, []
    for name, path in logs(paths).items():
        try:
            records = [record for record in read_log(path) if isinstance(record, dict) and "epoch" in record]
        except (UserError, OSError, UnicodeDecodeError) as error:
            problems.append(str(error))
            continue
        if any("val/bits_per_byte" in record for record in records):
            runs[name] = records
    return runs, problems


def points(records: Sequence[Record], key: str) -> list[tuple[float, float]]:
    """Epochs and values of one measurement."""
    return [(record["epoch"], record[key]) for record in records if isinstance(record.get(key), int | float)]


def curves(runs: dict[str, list[Record]], chosen: Sequence[str]) -> Markup:
    """Bits per byte and losses of the chosen runs; each keeps its colour."""
    bits, losses = [], []
    for colour, (name, records) in enumerate(runs.items()):
        if name not in chosen:
            continue
        bits.append(Line(name, points(records, "val/bits_per_byte"), colour))
        losses.append(Line(f"{name}: unseen", points(records, "val/loss"), colour))
        if seen := points(records, "train/loss"):
            losses.append(Line(f"{name}: training", seen, colour, dashed=True))
    if not bits:
        return notice("Choose a run above to see its curves.")
    for line in bits[:]:
        baseline = next((record["baseline/ngram"] for record in runs[line.name] if "baseline/ngram" in record), None)
        if baseline is not None:
            ends = [(line.points[0][0], baseline), (line.points[-1][0], baseline)]
            bits.append(Line("n-gram baseline", ends, len(runs), dashed=True))
            break
    return tag(
        "div",
        line_chart(bits, title="Bits per byte on tweets it never saw", x_name="epoch", y_name="bits per byte"),
        line_chart(losses, title="Loss (training with dropout)", x_name="epoch", y_name="nats per token"),
        class_="charts",
    )


def progress(runs: dict[str, list[Record]], paths: PathsConfig) -> Markup:
    """Where each run stands."""
    rows = []
    for name, records in runs.items():
        measured = [record for record in records if "val/bits_per_byte" in record]
        best, last = min(measured, key=lambda record: record["val/bits_per_byte"]), measured[-1]
        written = datetime.fromtimestamp(logs(paths)[name].stat().st_mtime)
        speed = last.get("tokens_per_second")
        rows.append(
            (
                name,
                f"{last['epoch']}",
                f"{best['val/bits_per_byte']:.3f} (epoch {best['epoch']})",
                f"{last.get('seconds', 0.0):,.0f} s",
                f"{speed:,}" if speed else "-",
                f"{written:%H:%M:%S}",
            )
        )
    return table(("run", "epochs", "best bits per byte", "trained", "tokens/s", "last written"), rows)


def samples(runs: dict[str, list[Record]], chosen: Sequence[str], path: Path) -> Markup:
    """What the runs wrote over the epochs, and what `run` wrote at the end."""
    rows = [
        (f"{name}, epoch {record['epoch']}", str(record["sample"]))
        for name in chosen
        for record in runs.get(name, ())
        if "sample" in record
    ]
    parts = [table(("when", "tweet from nothing"), rows, class_="words") if rows else notice(NO_SAMPLES)]
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
        parts.append(tag("details", tag("summary", f"After training: {path.name}"), tag("pre", text)))
    return joined(parts)


def read_json(path: Path) -> Record:
    """A results file; empty if it is missing or broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def evaluation_rows(result: Record) -> Iterator[tuple[str, ...]]:
    """The evaluated model and its baselines: bits per byte, and what a model also has."""
    stopping, copying = result.get("stopping") or {}, result.get("memorisation") or {}
    shares = (stopping.get("stop_rate"), copying.get("exact_copies"), copying.get("ngram8_in_train"))
    interval = result["val"].get("interval")
    spread = f" ({interval[0]:.3f} to {interval[1]:.3f})" if isinstance(interval, list) else ""
    model = result["model"]
    yield (
        Path(model["name"]).name,
        f"{model['parameters']:,}",
        f"{result['val']['bits_per_byte']:.3f}{spread}",
        *("-" if share is None else percent(share) for share in shares),
    )
    for name, bits in sorted(result.get("baselines", {}).items(), key=lambda item: item[1]):
        yield (f"baseline: {name}", "-", f"{bits:.3f}", "-", "-", "-")


def distillation_rows(result: Record) -> Iterator[tuple[str, ...]]:
    """Teacher, student, the same by `train`, and without a teacher."""
    for who in ("teacher", "student", "usual", "control"):
        if line := result.get(who):
            shares = (line.get(key) for key in ("stop_rate", "exact_copies", "ngram8_in_train"))
            yield (
                f"{who}: {Path(line['name']).name}",
                f"{line['parameters']:,}",
                f"{line['bits_per_byte']:.3f}",
                *("-" if share is None else percent(share) for share in shares),
            )


def evaluation(folder: Path) -> Markup:
    """The tables of evaluation.json and distillation.json, with their verdicts."""
    head = ("model", "parameters", "bits per byte", "ends by itself", "exact copies", "8 words copied")
    parts: list[Markup] = []
    kinds = (
        ("evaluation", "A model and its baselines", evaluation_rows),
        ("distillation", "Teacher and student", distillation_rows),
    )
    for name, title, rows in kinds:
        result = read_json(folder / f"{name}.json")
        if not result:
            continue
        try:
            figures = table(head, list(rows(result)))
        except (KeyError, TypeError, ValueError, IndexError):
            parts.append(notice(f"{folder / name}.json is not what this version writes: make it again."))
            continue
        said = [tag("li", str(sentence)) for sentence in result.get("verdict") or ()]
        parts += [tag("h3", title), figures, tag("ul", *said, class_="verdict")]
    return joined(parts or [notice(NO_EVALUATION)])


class TrainingTab:
    """Lays the tab out; while it is open, a timer keeps it fresh."""

    def __init__(self, paths: PathsConfig) -> None:
        self.paths = paths
        self.seen = gr.State(())
        self.runs = gr.CheckboxGroup([], label="Runs", elem_id="runs")
        self.view = gr.HTML(notice("Looking ..."), elem_id="training")
        self.timer = gr.Timer(SECONDS, active=False)
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
        outputs = [self.seen, self.runs, self.view]
        self.first = (self.refresh, [self.seen, self.runs], outputs)
        self.timer.tick(*self.first, trigger_mode="once", **quiet)
        self.runs.input(self.draw, self.runs, self.view, trigger_mode="always_last", **quiet)

    def refresh(self, seen: Signature, chosen: list[str]) -> tuple[Any, Any, Any]:
        """The tab as the files are now; nothing if none has changed."""
        now = signature(self.paths)
        if tuple(map(tuple, seen)) == now and now:
            return gr.skip(), gr.skip(), gr.skip()
        runs, _ = read_runs(self.paths)
        before = {name for name, *_ in seen}
        new = [name for name in runs if str(logs(self.paths)[name]) not in before and not name.startswith("teachers/")]
        chosen = [name for name in runs if name in chosen or name in new]
        choices = gr.CheckboxGroup(choices=list(runs), value=chosen, visible=len(runs) > 1)
        return now, choices, self.draw(chosen)

    def draw(self, chosen: list[str]) -> Markup:
        """Curves, samples and evaluation."""
        runs, problems = read_runs(self.paths)
        parts = [notice(problem) for problem in problems]
        if runs:
            parts += [curves(runs, chosen), progress(runs, self.paths)]
            parts += [tag("h2", "Samples over the epochs"), samples(runs, chosen, self.paths.results / "samples.txt")]
        else:
            parts.append(notice(NO_RUNS))
        return joined([*parts, tag("h2", "Evaluation"), evaluation(self.paths.results)])
