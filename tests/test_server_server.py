"""`python main.py serve` as a process: it says where it is, or why it is nowhere, and ends when it is told to."""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

import web.serve
from config.cli import parse, run_command
from config.schema import Config, ServeConfig, UserError
from model.checkpoint import Bundle
from server import server
from server.schemas import MODEL_NAME

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_it_serves_both_and_ends_at_once_with_a_stream_open(trained: tuple[Config, Bundle]) -> None:
    config = trained[0]
    command = [sys.executable, "main.py", "serve", "--serve.port", "0", "--paths.root", config.paths.root]
    attended = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # as from a terminal, where none is
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=attended
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines[0].startswith("Playground  http://127.0.0.1:") and "/v1 " in lines[1], process.communicate()
    address = lines[0].split()[1]
    with httpx.Client(base_url=address, timeout=20) as client:
        assert "<html" in client.get("/").text and "gradio" in client.get("/").text
        assert client.get("/v1/models").json()["data"][0]["created"] > 1_700_000_000
        assert client.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
        body = {"model": MODEL_NAME, "prompt": ["Hi"] * 16, "n": 16, "stream": True, "temperature": 2.0}
        with client.stream("POST", "/v1/completions", json=body) as stream:
            next(stream.iter_lines())
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=20)  # 1.4 s on a busy machine; the streams alone would go on longer
    assert process.returncode == 130 and "Traceback" not in told and "interrupted" in told, told


@pytest.mark.slow
@pytest.mark.browser
def test_ctrl_c_ends_it_soon_and_in_one_line_with_a_page_open(trained: tuple[Config, Bundle], browser: Browser) -> None:
    command = [sys.executable, "main.py", "serve", "--serve.port", "0", "--paths.root", trained[0].paths.root]
    attended = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=attended
    ) as process:
        assert process.stdout is not None
        page = browser.new_page()
        page.goto(process.stdout.readline().split()[1])
        page.get_by_role("button", name="Write", exact=True).click()
        expect(page.locator(".card:not(.writing)").first).to_be_visible(timeout=20_000)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
        seconds = time.monotonic() - started
        page.close()
    assert told.splitlines() == ["Ctrl-C ends.", "interrupted"] and process.returncode == 130
    assert seconds < 3  # 0.8 on a machine with nothing else to do; once it was 5 or more


def test_a_taken_port_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run_command("serve", ["--serve.port", str(port)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: port {port} of 127.0.0.1 is in use") and said.count("\n") == 1
    assert "--serve.port" in said


def test_no_checkpoint_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("serve", ["--paths.root", str(tmp_path), "--serve.port", "0"]) == 1
    said = capsys.readouterr().err
    assert "no checkpoint at" in said and "python main.py" in said and said.count("\n") == 1


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(web.serve, "find_spec", lambda name: None if name != "uvicorn" else object())
    assert run_command("serve", []) == 1
    assert "serve needs fastapi, gradio: run `make serve`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 65536),
        ("port", -1),
        ("width", 0),
        ("queue", -1),
        ("max_body_kb", 0),
        ("timeout_seconds", 0),
        ("host", ""),
    ],
)
def test_wrong_settings(name: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"serve\.{name}"):
        parse("serve", [f"--serve.{name}", str(value)])


def test_hosts_that_are_not_ours_are_told() -> None:
    settings = parse("serve", ["--serve.host", "192.0.2.1", "--serve.port", "0"])[0].serve
    with pytest.raises(UserError, match=r"can't listen on port 0 of 192\.0\.2\.1"):
        server.listen(settings)


def test_the_key_is_not_kept() -> None:
    config = parse("serve", ["--serve.api_key", "s3cret"])[0]
    assert isinstance(config.serve, ServeConfig) and config.serve.api_key == "s3cret"
    assert "s3cret" not in repr(config.to_dict())


@pytest.mark.slow
def test_another_users_folder_does_not_stop_it_and_it_leaves_none(
    trained: tuple[Config, Bundle], tmp_path: Path
) -> None:
    (tmp_path / "gradio").write_text("", encoding="utf-8")  # where Gradio would make its folder
    command = [sys.executable, "main.py", "serve", "--serve.port", "0", "--paths.root", trained[0].paths.root]
    own = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"}
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**own, "TMPDIR": str(tmp_path)}
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        assert httpx.get(address, timeout=20).status_code == httpx.head(address, timeout=20).status_code == 200
        process.terminate()
        process.wait(20)
    assert process.returncode == -signal.SIGTERM and [path.name for path in tmp_path.iterdir()] == ["gradio"]
