"""The tab Training: curves and samples of all training runs of this root, and the results of `evaluate`.

Other commands write the files; a timer checks whether one has changed.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from config.schema import PathsConfig, UserError
from utils.run_log import read_log
from web.charts import Curve, line_chart
from web.sound import sound_parts
from web.templates import figures_table, notice, public, render, short_percent

RUN_NAMES = {
    "metrics": "model",
    "distill_metrics": "student",
    "control_metrics": "student without a teacher",
    "usual_metrics": "usual training",
}
REFRESH_SECONDS = 3.0  # between two checks of the files
NO_RUNS = "No training log yet: `python main.py train` makes one, and its curve grows here while it runs."
NO_EVALUATION = "No evaluation yet: `python main.py evaluate` makes one."
NO_SAMPLES = "The run logs hold no samples."

Record = dict[str, Any]
FileVersions = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class LoggedRun:
    """A training run as its log describes it.

    Attributes:
        path: the log.
        records: one for each epoch that was measured or sampled.
        baseline: bits per byte of the n-gram model on the same tweets, if the log has it.
    """

    path: Path
    records: list[Record]
    baseline: float | None

    @property
    def measured(self) -> list[Record]:
        """The records that hold the bits per byte on the validation tweets."""
        return [record for record in self.records if "val/bits_per_byte" in record]

    def points(self, key: str) -> list[tuple[float, float]]:
        """Epochs and values of one measurement."""
        return [(record["epoch"], record[key]) for record in self.records if isinstance(record.get(key), int | float)]


def find_logs(paths: PathsConfig) -> dict[str, Path]:
    """The logs of this root's runs, by the name of the run."""
    found: dict[str, Path] = {}
    for folder in (paths.results, paths.checkpoints):
        for path in sorted(folder.rglob("*.jsonl"), key=lambda path: (len(path.parts), path.stem != "metrics", path)):
            name = path.relative_to(folder).with_suffix("").as_posix()
            found.setdefault(RUN_NAMES.get(name, name), path)
    return found


def file_versions(paths: PathsConfig) -> FileVersions:
    """Name, modification time and size of each file that the tab shows; they differ after any change."""
    files = [*find_logs(paths).values(), *sorted(paths.results.glob("*.json")), paths.results / "samples.txt"]
    stats = [(str(path), path.stat()) for path in files if path.is_file()]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def read_runs(paths: PathsConfig) -> tuple[dict[str, LoggedRun], list[str]]:
    """The runs that have measured something, by name, and what is wrong with the other logs."""
    runs, problems = {}, []
    for name, path in find_logs(paths).items():
        try:
            records = [record for record in read_log(path) if isinstance(record, dict)]
        except (UserError, OSError, UnicodeDecodeError) as error:
            problems.append(public(str(error), paths))
            continue
        # the record of the baseline is written before the first epoch, so it has none
        baseline = next((record["baseline/ngram"] for record in records if "baseline/ngram" in record), None)
        run = LoggedRun(path, [record for record in records if "epoch" in record], baseline)
        if run.measured:
            runs[name] = run
    return runs, problems


def draw_curves(runs: dict[str, LoggedRun], chosen: Sequence[str]) -> Markup:
    """Charts of the chosen runs' bits per byte and losses; a run keeps its colour whichever are chosen."""
    bits, losses = [], []
    for colour, (name, run) in enumerate(runs.items()):
        if name not in chosen:
            continue
        bits.append(Curve(name, run.points("val/bits_per_byte"), colour))
        who = f"{name}: " if len(runs) > 1 else ""
        if unseen := run.points("val/loss"):
            losses.append(Curve(f"{who}tweets it never saw", unseen, colour))
        if seen := run.points("train/loss"):
            losses.append(Curve(f"{who}tweets it learns from (harder: with dropout)", seen, colour, dashed=True))
    if not bits:
        return notice("Choose a run above to see its curves.")
    epochs = [epoch for curve in bits for epoch, _ in curve.points]
    baselines = (runs[name].baseline for name in chosen if name in runs)
    if (baseline := next((value for value in baselines if value is not None), None)) is not None:
        ends = [(min(epochs), baseline), (max(epochs), baseline)]
        bits.append(Curve("n-gram, which only counts words", ends, len(runs), dashed=True))
    title = "Error on tweets it never saw (lower is better)"
    charts = [line_chart(bits, title=title, x_name="epoch", y_name="bits per byte")]
    if losses:
        title = "Error on those, and on the tweets it learns from"
        charts.append(line_chart(losses, title=title, x_name="epoch", y_name="nats per token"))
    return Markup('<div class="charts">{}</div>').format(Markup().join(charts))


def progress_table(runs: dict[str, LoggedRun]) -> Markup:
    """The last epoch, the best one and the speed of each run."""
    rows = []
    for name, run in runs.items():
        best, last = min(run.measured, key=lambda record: record["val/bits_per_byte"]), run.measured[-1]
        written = datetime.fromtimestamp(run.path.stat().st_mtime)
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
    return figures_table(("run", "epochs", "best bits per byte", "trained", "tokens/s", "last written"), rows)


def samples_table(runs: dict[str, LoggedRun], chosen: Sequence[str]) -> Markup:
    """The tweets that the chosen runs wrote after some epochs."""
    rows = [
        (f"{name}, epoch {record['epoch']}", str(record["sample"]))
        for name in chosen
        if name in runs
        for record in runs[name].records
        if "sample" in record
    ]
    return figures_table(("after", "tweet from nothing"), rows, kind="words") if rows else notice(NO_SAMPLES)


def read_results(path: Path) -> Record:
    """The JSON object of a results file; empty if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def evaluation_rows(result: Record) -> Iterator[tuple[str, ...]]:
    """The rows of the evaluated model and its baselines."""
    stopping, copying = result.get("stopping") or {}, result.get("memorisation") or {}
    shares = (stopping.get("stop_rate"), copying.get("exact_copies"), copying.get("ngram8_in_train"))
    interval = result["val"].get("interval")
    spread = f" ({interval[0]:.3f} to {interval[1]:.3f})" if isinstance(interval, list) else ""
    model = result["model"]
    yield (
        Path(model["name"]).name,
        f"{model['parameters']:,}",
        f"{result['val']['bits_per_byte']:.3f}{spread}",
        *("-" if share is None else short_percent(share) for share in shares),
    )
    for name, bits in sorted(result.get("baselines", {}).items(), key=lambda item: item[1]):
        yield (f"baseline: {name}", "-", f"{bits:.3f}", "-", "-", "-")


def distillation_rows(result: Record) -> Iterator[tuple[str, ...]]:
    """The rows of the teacher, the student, the model of the usual training, and the control without a teacher."""
    for who in ("teacher", "student", "usual", "control"):
        if line := result.get(who):
            shares = (line.get(key) for key in ("stop_rate", "exact_copies", "ngram8_in_train"))
            yield (
                f"{who}: {Path(line['name']).name}",
                f"{line['parameters']:,}",
                f"{line['bits_per_byte']:.3f}",
                *("-" if share is None else short_percent(share) for share in shares),
            )


def evaluation_view(paths: PathsConfig) -> Markup:
    """The tables of evaluation.json and distillation.json, with their verdicts."""
    head = ("model", "parameters", "bits per byte", "ends by itself", "exact copies", "8 words copied")
    parts: list[tuple[str, Markup, Sequence[object]]] = []
    kinds = (
        ("evaluation", "A model and its baselines", evaluation_rows),
        ("distillation", "Teacher and student", distillation_rows),
    )
    for name, title, rows in kinds:
        result = read_results(paths.results / f"{name}.json")
        if not result:
            continue
        try:
            figures = figures_table(head, list(rows(result)))
            sound = sound_parts(result)
        except (KeyError, TypeError, ValueError, IndexError):
            problem = f"results/{name}.json is not what this version writes: make it again."
            parts.append(("", notice(problem), ()))
            continue
        verdict = [public(line, paths) for line in result.get("verdict") or ()]
        parts += [(title, figures, verdict), *sound]
    return render("evaluation.html", parts=parts or [("", notice(NO_EVALUATION), ())])


class TrainingTab:
    """The tab's layout; while it is open, a timer updates it."""

    def __init__(self, paths: PathsConfig) -> None:
        self.paths = paths
        self.seen = gr.State(())
        self.runs = gr.CheckboxGroup([], label="Runs", elem_id="runs")
        self.view = gr.HTML(notice("Looking ..."), elem_id="training")
        self.timer = gr.Timer(REFRESH_SECONDS, active=False)
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
        outputs = [self.seen, self.runs, self.view]
        self.first = (self.refresh, [self.seen, self.runs], outputs)
        self.timer.tick(*self.first, trigger_mode="once", **quiet)
        self.runs.input(self.draw, self.runs, self.view, trigger_mode="always_last", **quiet)

    def refresh(self, seen: FileVersions, chosen: list[str]) -> tuple[Any, Any, Any]:
        """The tab from the files as they are now; no change if they have not changed."""
        now = file_versions(self.paths)
        if tuple(map(tuple, seen)) == now and now:
            return gr.skip(), gr.skip(), gr.skip()
        runs, _ = read_runs(self.paths)
        before = {name for name, *_ in seen}
        new = [name for name in runs if str(runs[name].path) not in before and not name.startswith("teachers/")]
        chosen = [name for name in runs if name in chosen or name in new]
        choices = gr.CheckboxGroup(choices=list(runs), value=chosen, visible=len(runs) > 1)
        return now, choices, self.draw(chosen)

    def draw(self, chosen: list[str]) -> Markup:
        """Curves, samples and evaluation."""
        runs, problems = read_runs(self.paths)
        final = self.paths.results / "samples.txt"
        return render(
            "training.html",
            problems=[notice(problem) for problem in problems],
            runs=bool(runs),
            no_runs=notice(NO_RUNS),
            curves=draw_curves(runs, chosen) if runs else "",
            progress=progress_table(runs),
            samples=samples_table(runs, chosen),
            final_name=final.name,
            final_samples=final.read_text(encoding="utf-8", errors="replace") if final.is_file() else "",
            evaluation=evaluation_view(self.paths),
        )
