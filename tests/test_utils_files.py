"""Files, run logs and the plot: whole or not at all, and read back as they were written."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from matplotlib import image

from config.schema import UserError
from utils.files import atomic_write
from utils.plot_loss import plot
from utils.run_log import RunLog, read_log, write_facts
from utils.signals import StopSignal

RECORDS = [
    {"step": 0, "baseline/ngram": 2.0},
    {"step": 0, "epoch": 0, "val/loss": 7.5, "val/bits_per_byte": 2.5},
    {"step": 9, "epoch": 1, "train/loss": 6.0, "val/loss": 6.1, "val/bits_per_byte": 2.1},
    {"step": 18, "epoch": 2, "train/loss": 5.0, "val/loss": 5.9, "val/bits_per_byte": 1.98},
    {"step": 27, "epoch": 3, "train/loss": 4.0, "val/loss": 6.3, "val/bits_per_byte": 2.2},
]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("one", encoding="utf-8")
        assert not path.exists()
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("two, half wri", encoding="utf-8")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "one"
    assert os.listdir(path.parent) == ["file.txt"]


def test_windows_renames_again_while_a_file_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, refusals = os.replace, [PermissionError, PermissionError]

    def busy(source: Path, target: Path) -> None:
        if refusals:
            raise refusals.pop()
        rename(source, target)

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "replace", busy)
    with atomic_write(tmp_path / "file.txt") as temporary:
        temporary.write_text("one", encoding="utf-8")
    assert (tmp_path / "file.txt").read_text(encoding="utf-8") == "one" and not refusals


def test_a_log_comes_back_and_can_be_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = RunLog(path)
    for record in RECORDS:
        log.write(**record)
    assert read_log(path) == RECORDS
    again = RunLog(path, keep=lambda record: record["step"] <= 9)
    again.write(step=10)
    assert read_log(path) == [*RECORDS[:3], {"step": 10}]
    RunLog(path)
    assert read_log(path) == []


def test_a_log_cut_short_and_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "val', encoding="utf-8")
    assert read_log(path) == [{"step": 1}]
    path.write_text('{"step": 1}\nhello\n{"step": 3}\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 2: not JSON"):
        read_log(path)
    with pytest.raises(UserError, match=r"main\.py train"):
        read_log(tmp_path / "none.jsonl")


def test_facts_name_the_versions(tmp_path: Path) -> None:
    write_facts(tmp_path / "run.json", {"seed": 3})
    facts = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert facts["seed"] == 3 and set(facts["versions"]) >= {"torch", "numpy"} and facts["python"]


def test_the_plot_is_a_picture_with_both_curves(tmp_path: Path) -> None:
    path = tmp_path / "loss_plot.png"
    plot(RECORDS, path)
    pixels = image.imread(path)
    assert pixels.shape[0] > 400 and pixels.shape[1] > 1000
    for colour in ((0x2A, 0x78, 0xB8), (0xD1, 0x60, 0x2A)):
        near = abs(pixels[..., :3] * 255 - colour).max(-1) < 12
        assert near.sum() > 300, "a curve is missing"


def test_nothing_to_plot(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to plot yet"):
        plot(RECORDS[:1], tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_a_second_one_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.arrived
        os.kill(os.getpid(), number)
        assert stop.arrived
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
