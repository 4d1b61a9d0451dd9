"""Models trained side by side equal those trained one after another, and all stop when the command is stopped."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
import torch

from config.schema import Config, UserError
from distillation import workers
from distillation.distill import usual_run
from distillation.runs import set_up
from distillation.teachers import member_runs
from distillation.workers import LabelledStream, affordable, train_all
from model.checkpoint import load_checkpoint
from trainer.train import Interrupted
from utils.preprocess import Corpus
from utils.signals import StopSignal

SettingsOf = Callable[..., Config]
LONG = ["--train.epochs", "5000", "--train.patience", "5000"]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


@pytest.mark.slow
def test_side_by_side_gives_the_same_models(
    settings: SettingsOf,
    corpus: Corpus,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    few = ["--distill.members", "2", "--distill.member_epochs", "2"]
    together, alone = (
        set_up(settings(*few, "--distill.workers", number, "--paths.root", str(tmp_path / number)), corpus)
        for number in ("2", "1")
    )
    steps = [train_all(context, member_runs(context)) for context in (together, alone)]
    said = capfd.readouterr().err
    assert "member_1: [Epoch 1] Train Loss" in said and "member_2: [Epoch 2] Train Loss" in said
    assert [list(each.values()) for each in steps] == [list(steps[1].values())] * 2
    for run, other in zip(member_runs(together), member_runs(alone), strict=True):
        found, expected = load_checkpoint(run.path), load_checkpoint(other.path)
        assert found["info"]["val_nats_per_token"] == expected["info"]["val_nats_per_token"]
        for name, weight in expected["model"].items():
            assert torch.equal(found["model"][name], weight)
        logs = [[line for line in lines(path) if "train/loss" in line] for path in (run.log, other.log)]
        assert len(logs[0]) == len(logs[1]) == 2
    monkeypatch.setattr(workers, "side_by_side", None)  # so it fails if a model is trained again
    assert train_all(together, member_runs(together)) == steps[0]
    assert "Using" not in capfd.readouterr().err, "no message about what this very command made"
    again = set_up(together.config, together.corpus)
    assert train_all(again, member_runs(again)) == steps[0]
    assert capfd.readouterr().err.count("again: it was made with these settings") == 2


@pytest.mark.slow
def test_an_error_in_one_is_raised_and_the_other_is_saved(settings: SettingsOf, corpus: Corpus) -> None:
    config = settings("--distill.workers", "2", "--distill.members", "2", "--distill.member_epochs", "5000", *LONG)
    context = set_up(config, corpus)
    good, bad = usual_run(context), member_runs(context)[0]
    bad.path.parent.mkdir(parents=True)
    bad.path.with_suffix(".training").write_text("a file where a folder should be", encoding="utf-8")
    with pytest.raises(OSError, match="member_1"):
        train_all(context, [good, bad])
    assert not good.path.exists()


COMMAND = """
import sys
from config.cli import run_command
if __name__ == "__main__":
    sys.exit(run_command("distill", sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_signal_to_the_command_stops_all_processes(sample: tuple[Config, Corpus], tmp_path: Path) -> None:
    """SIGTERM to the command alone: everything is saved, and nothing goes on."""
    config = sample[0]
    script = tmp_path / "command.py"
    script.write_text(COMMAND, encoding="utf-8")
    (tmp_path / "data").mkdir()
    for name in ("processed.txt", "processed.json"):
        if (source := config.paths.data / name).is_file():
            (tmp_path / "data" / name).write_bytes(source.read_bytes())
    flags = ["--paths.root", str(tmp_path), "--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2"]
    flags += [*LONG, "--machine.device", "cpu", "--distill.workers", "2", "--distill.teacher", "ngram"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    logs = [tmp_path / "results" / f"{name}_metrics.jsonl" for name in ("usual", "control")]
    with subprocess.Popen(
        [sys.executable, str(script), *flags], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 90
        while any(len(lines(log)) < 4 for log in logs):  # two epochs
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = process.stderr.read()  # ends when the last of them has ended
        assert process.wait() == 130
    assert said.splitlines()[-1].startswith("interrupted: all is saved: the same `python main.py distill`")
    assert "Traceback" not in said
    for name, log in zip(("usual", "control"), logs, strict=True):
        state = load_checkpoint(tmp_path / "checkpoints" / f"{name}.training" / "last_model.pth")["state"]
        assert state["epoch"] == json.loads(lines(log)[-1])["epoch"] >= 2


def test_a_worker_whose_parent_was_killed_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def leave(code: int) -> None:
        raise Killed

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
        monkeypatch.setattr(multiprocessing, "parent_process", lambda: Alive(parent))
        monkeypatch.setattr(os, "_exit", leave)
        monkeypatch.setattr(StopSignal, "asked", StopSignal.asked)  # put back afterwards
        stop = multiprocessing.get_context("spawn").Event()
        workers.init_worker(stop)
        with StopSignal() as asked:
            assert not asked.arrived
            stop.set()
            assert asked.arrived
            parent.kill()
            parent.wait()
            with pytest.raises(Killed):
                _ = asked.arrived


class Alive:
    """A process that is not a child of multiprocessing."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def is_alive(self) -> bool:
        return self.process.poll() is None


@pytest.mark.slow
def test_a_killed_worker_gets_one_line(settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings("--distill.workers", "2", "--distill.members", "2", "--distill.member_epochs", "5000", *LONG)
    context = set_up(config, corpus)

    def kill_one(*given: Any) -> Any:
        multiprocessing.active_children()[0].kill()
        return wait(*given)

    monkeypatch.setattr(workers, "wait", kill_one)
    with pytest.raises(UserError, match=r"the system killed a training process.*--distill\.workers 1"):
        train_all(context, member_runs(context))


def test_as_many_at_once_as_there_are_cores_and_memory(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = set_up(settings("--distill.members", "6"), corpus)
    runs = member_runs(context)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for total, free, expected in (
        (64 * 10**9, 64 * 10**9, 4),
        (64 * 10**9, 3 * 10**9, 2),  # two of a bit more than one gigabyte
        (64 * 10**9, 10**8, 1),
        (4 * 10**9, None, 1),  # where the free memory can't be told, half of all is taken for it
        (None, None, 4),
    ):
        monkeypatch.setattr(workers, "memory", lambda total=total, free=free: (total, free))
        assert affordable(context, runs) == expected
    assert affordable(context, runs[:1]) == 1


def test_lines_are_written_whole_and_labelled() -> None:
    stream = io.StringIO()
    labelled = LabelledStream(stream, "member_1")
    for piece in ("one ", "line\nanother", " one\n", "begun"):
        labelled.write(piece)
    assert stream.getvalue() == "member_1: one line\nmember_1: another one\n"


@pytest.mark.slow
def test_a_signal_while_the_last_one_ends_is_not_lost(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = set_up(
        settings("--distill.workers", "2", "--distill.members", "2", "--distill.member_epochs", "1"), corpus
    )

    def ask_at_the_end(pending: Any, timeout: float, when: str) -> Any:
        found = wait(pending)
        os.kill(os.getpid(), signal.SIGTERM)
        return found

    monkeypatch.setattr(workers, "wait", ask_at_the_end)
    with pytest.raises(Interrupted):
        train_all(context, member_runs(context))
    assert all(run.path.is_file() for run in member_runs(context)), "all were done"


def test_a_worker_that_was_stopped_before_it_began_does_not_begin(
    settings: SettingsOf, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = set_up(settings("--distill.members", "2"), corpus)
    monkeypatch.setattr(StopSignal, "asked", staticmethod(lambda: True))
    with pytest.raises(Interrupted):
        workers.train_in_worker(context, member_runs(context)[0], 1)
    assert not context.config.paths.checkpoints.exists()
