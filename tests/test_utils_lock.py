"""Two runs in one folder: the second is turned away in one line, unless the first is dead, however it died."""

import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from config.schema import Config, UserError
from distillation import distill
from pipeline import run
from trainer import train
from utils.lock import LOCK, only_run

ROOT = Path(__file__).parents[1]
HOLD = "import sys, pathlib\nfrom utils.lock import only_run\nwith only_run(pathlib.Path(sys.argv[1])):\n    "


def start(folder: Path, then: str) -> subprocess.Popen[str]:
    """A process that takes the lock and does `then`."""
    command = [sys.executable, "-c", HOLD + then, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, stderr=-1, text=True)


def test_the_second_is_told_who_the_first_is_and_a_killed_first_is_no_hindrance(tmp_path: Path) -> None:
    with start(tmp_path, "print('in', flush=True); input()") as first:
        assert first.stdout is not None and first.stdout.readline() == "in\n"
        with start(tmp_path, "print('in')") as second:
            out, err = second.communicate(timeout=30)
        assert out == "" and f"process {first.pid} is already training in {tmp_path}: wait for it" in err
        assert "--paths.root DIR" in err
        with only_run(tmp_path / "another"):
            pass
        left = tmp_path / "x.training" / f".last_model.pth.{first.pid}.tmp"
        left.parent.mkdir()
        left.write_bytes(b"half")
        first.kill()
        first.wait()
        with start(tmp_path, "print('in')") as third:
            assert third.communicate(timeout=30) == ("in\n", "")
        assert not left.exists(), "what the killed one left half-written"


@pytest.mark.parametrize("module", [train, run, distill], ids=lambda module: module.__name__)
def test_what_trains_takes_the_lock(
    settings: Callable[..., Config], module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings()
    monkeypatch.setattr(module, "load_processed", lambda paths: None, raising=False)
    with only_run(config.paths.checkpoints), pytest.raises(UserError, match="is already training in"):
        module.run(config, Namespace())
    assert [path.name for path in Path(config.paths.root).rglob("*")] == ["checkpoints", LOCK]


def test_a_folder_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), only_run(tmp_path):
        raise RuntimeError
    with only_run(tmp_path):
        pass
