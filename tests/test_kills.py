"""What a kill leaves behind is never taken for whole, and does not stand in the way of the next run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.cli import run_command
from config.schema import Config
from model.checkpoint import Bundle
from utils.files import atomic_write

Trained = tuple[Config, Bundle]


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def dead_process() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["f32", "q8_0"])
def test_a_gguf_export_killed_between_its_two_names(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantize: str
) -> None:
    flags = ["--paths.root", trained[0].paths.root, "--export.to", "gguf", "--export.quantize", quantize]
    flags += ["--export.vocabulary", "rows", "--export.output"]
    assert run_command("export", [*flags, str(tmp_path / "quiet" / "elon.gguf")]) == 0
    rename, output = os.replace, tmp_path / "killed" / "elon.gguf"

    def killed(source: Path, target: Path) -> None:
        if target == output:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            run_command("export", [*flags, str(output)])
    assert names(output.parent) == ["Modelfile"], "it names a model that is not there: nobody can take it for whole"
    assert run_command("export", [*flags, str(output)]) == 0
    for name in ("Modelfile", "elon.gguf"):
        assert (output.parent / name).read_bytes() == (tmp_path / "quiet" / name).read_bytes()


def test_a_modelfile_that_says_anything_else_is_not_touched(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, recipe = tmp_path / "elon.gguf", tmp_path / "Modelfile"
    flags = ["--paths.root", trained[0].paths.root, "--export.to", "gguf", "--export.output", str(output)]
    flags += ["--export.vocabulary", "rows"]
    assert run_command("export", flags) == 0
    output.unlink()
    recipe.write_text(mine := recipe.read_text(encoding="utf-8") + "SYSTEM my own words\n", encoding="utf-8")
    assert run_command("export", flags) == 1
    assert f"{recipe} is there already" in capsys.readouterr().err
    assert recipe.read_text(encoding="utf-8") == mine and names(tmp_path) == ["Modelfile"]


@pytest.mark.parametrize("ours", [False, True])  # in a container the next run may have the number of the killed one
def test_an_export_takes_away_the_folder_of_a_killed_one(trained: Trained, tmp_path: Path, ours: bool) -> None:
    number = os.getpid() if ours else dead_process()
    left = tmp_path / f".elon.{number}.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    flags = ["--paths.root", trained[0].paths.root, "--export.output", str(tmp_path / "elon")]
    assert run_command("export", flags) == 0
    assert names(tmp_path) == ["elon"]


def test_a_write_takes_away_what_killed_ones_left_of_the_same_file_and_nothing_else(tmp_path: Path) -> None:
    dead = dead_process()
    kept = {".other.txt.1.tmp", f".other.txt.{dead}.tmp", f".file.txt.old.{dead}.tmp", ".file.txt.1.tmp"}
    kept |= {".file.txt.99999999999999999999.tmp", ".file.txt.-1.tmp", ".file.txt.0.tmp", f"file.txt.{dead}.tmp"}
    for name in {*kept, f".file.txt.{dead}.tmp"}:
        (tmp_path / name).write_text("half", encoding="utf-8")
    with atomic_write(tmp_path / "file.txt") as temporary:
        temporary.write_text("whole", encoding="utf-8")
    assert set(names(tmp_path)) == {*kept, "file.txt"}


def test_preprocess_takes_away_what_a_killed_one_left(sample: tuple[Config, object], tmp_path: Path) -> None:
    left = tmp_path / "data" / f".processed.txt.{dead_process()}.tmp"
    left.parent.mkdir()
    left.write_text("half a twe", encoding="utf-8")
    source = str(sample[0].data.path)
    assert run_command("preprocess", ["--paths.root", str(tmp_path), "--data.path", source]) == 0
    assert names(left.parent) == ["processed.json", "processed.txt"]
