"""An exported Space: a folder that runs by itself, and holds no tweets."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.cli import run_command
from config.schema import Config
from export import space
from model.checkpoint import Bundle
from utils.preprocess import load_processed

Exported = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def exported(trained: tuple[Config, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The folder, and what `export --json` said."""
    folder = tmp_path_factory.mktemp("export") / "my-space"
    flags = ["--paths.root", trained[0].paths.root, "--export.to", "space", "--export.output", str(folder), "--json"]
    printed = subprocess.run([sys.executable, "main.py", "export", *flags], capture_output=True, text=True, check=True)
    return folder, json.loads(printed.stdout)


def test_it_holds_what_it_says_and_no_tweets(exported: Exported, trained: tuple[Config, Bundle]) -> None:
    folder, told = exported
    files = {path for path in folder.rglob("*") if path.is_file()}
    assert {Path(file["path"]) for file in told["files"]} == files
    names = {str(path.relative_to(folder)) for path in files}
    assert {"app.py", "README.md", "requirements.txt", "LICENSE", "main.py", "checkpoints/best_model.pth"} <= names
    assert {
        "server/server.py",
        "web/playground.css",
        "web/templates/cards.html",
        "inspection/attention.html",
        "config/config.yaml",
    } <= names
    corpus = load_processed(trained[0].paths)
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix not in (".pth", ".npz")]
    long = [tweet.text for tweet in (*corpus.train, *corpus.val) if len(tweet.text) > 40]
    assert len(long) > 100 and not [tweet for tweet in long if any(tweet in text for text in texts)]
    assert not any(str(folder.parent) in text or str(space.CODE) in text for text in texts)


def test_the_hub_finds_its_settings(exported: Exported) -> None:
    text = (exported[0] / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(re.match(r"---\n(.+?)---", text, re.DOTALL)[1])  # type: ignore[index]
    assert front["sdk"] == "gradio" and (exported[0] / front["app_file"]).is_file()
    wanted = (exported[0] / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert f"gradio=={front['sdk_version']}" in wanted and "torch==2.13.0" in wanted
    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+", line) for line in wanted)
    assert "invented posts" in text


@pytest.mark.slow
def test_it_runs_by_itself(exported: Exported) -> None:
    pytest.importorskip("gradio")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "app.py", "--serve.host", "127.0.0.1", "--serve.port", "0", "--machine.threads", "1"]
    with subprocess.Popen(command, cwd=exported[0], env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            address = server.stdout.readline().split()[-1]
            assert "playground" in urllib.request.urlopen(address, timeout=30).read().decode().lower()
            body = json.dumps({"model": "elon-transformer", "prompt": "The", "max_tokens": 5, "seed": 1}).encode()
            asked = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
            answer = json.loads(urllib.request.urlopen(asked, timeout=30).read())
            assert answer["choices"][0]["finish_reason"] in ("stop", "length")
        finally:
            server.terminate()
            server.wait(20)


def test_what_is_there_stays(
    exported: Exported, trained: tuple[Config, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--paths.root", trained[0].paths.root, "--export.to", "space", "--export.output", str(exported[0])]
    before = sorted(path.stat().st_mtime for path in exported[0].rglob("*"))
    assert run_command("export", flags) == 1
    assert "is there already, and not empty" in capsys.readouterr().err
    assert before == sorted(path.stat().st_mtime for path in exported[0].rglob("*"))
    assert run_command("export", [*flags, "--export.quantize", "f16"]) == 2
    assert "only --export.to gguf is quantized" in capsys.readouterr().err


def test_a_part_of_a_checkout_is_refused(
    trained: tuple[Config, Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(space, "CODE", tmp_path / "elsewhere")
    output = tmp_path / "space"
    flags = ["--paths.root", trained[0].paths.root, "--export.to", "space", "--export.output", str(output)]
    assert run_command("export", flags) == 1
    assert "made from a whole checkout" in capsys.readouterr().err and not output.exists()
