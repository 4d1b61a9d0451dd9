"""A full disk and a read-only folder stop every command that writes in one line; what was there stays as it was.

The disks are small ones in memory, mounted for the test where that is allowed.
"""

import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.cli import run_command
from tests.conftest import TINY
from utils.preprocess import Tweet


def mount(*arguments: str) -> bool:
    """Run `mount`; whether it was allowed."""
    return bool(shutil.which("mount")) and not subprocess.run(["mount", *arguments], capture_output=True).returncode


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)):
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def flags(disk: Path, tweets: list[Tweet], tmp_path: Path) -> list[str]:
    """Settings of a tiny run on that disk, already preprocessed and trained."""
    source = tmp_path / "tweets.csv"
    source.write_text("text\n" + "\n".join(tweet.text for tweet in tweets), encoding="utf-8")
    found = ["--paths.root", str(disk), "--data.path", str(source), "--data.near_duplicate_words", "9", *TINY]
    assert run_command("preprocess", found) == run_command("train", found) == 0
    return found


def contents(disk: Path) -> dict[str, bytes]:
    """All files of the disk, but for the lock and the measurements, which are of the newest run."""
    files = [path for path in disk.rglob("*") if path.is_file()]
    kept = [path for path in files if path.name not in (".lock", "filler") and path.parent.name != "results"]
    return {str(path.relative_to(disk)): path.read_bytes() for path in kept}


COMMANDS = [
    ("preprocess", ["--data.split_seed", "5"]),
    ("train", ["--train.epochs", "3"]),
    ("export", []),
    ("export", ["--export.to", "gguf"]),
]


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 20_000, 60_000])  # nothing fits; the tweets fit; part of a checkpoint fits
def test_a_full_disk(disk: Path, flags: list[str], capsys: pytest.CaptureFixture[str], room: int) -> None:
    gc.collect()  # the last run's tokens lie in a file without a name, until nobody holds them
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - room)))
    for name, more in COMMANDS[room > 0 :]:
        before = contents(disk)
        capsys.readouterr()
        assert run_command(name, [*flags, *more]) == 1, name
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ") and "No space left on device" in last and str(disk) in last
        assert "what was saved before is whole" in last or "nothing was left there" in last
        assert contents(disk) == before
    (disk / "filler").unlink()
    assert run_command("train", flags) == 0


@pytest.fixture
def locked(disk: Path, tmp_path: Path) -> Iterator[Path]:
    """That disk again, read-only."""
    folder = tmp_path / "locked"
    folder.mkdir()
    assert mount("-o", "bind,ro", str(disk), str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_read_only_folder(disk: Path, locked: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before, flags = contents(disk), [*flags, "--paths.root", str(locked)]
    for name, more in [*COMMANDS, ("run", []), ("distill", []), ("plot", [])]:
        capsys.readouterr()
        assert run_command(name, [*flags, *more]) == 1, name
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ") and "Read-only file system" in last and ".tmp" not in last
        assert contents(disk) == before
    assert run_command("generate", [*flags, "The"]) == 0  # reading is all it needs


def test_the_advice_is_not_given_for_other_errors(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.train.load_processed", lambda paths: None)
    (tmp_path / "checkpoints").write_text("a file where a folder should be", encoding="utf-8")
    assert run_command("train", ["--paths.root", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: File exists: {tmp_path / 'checkpoints'}\n"
