"""benchmarks/gpu.py with tiny settings on a CPU: everything is measured, and what fails does not stop the rest."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_gpt2, gpu_same
from model.tokenizer import load_tokenizer
from tests.test_benchmarks_speed import STAND_IN
from trainer.job import framed_ids

ROOT = Path(__file__).parents[1]


def session(out: Path, *arguments: str) -> gpu.Session:
    """A session that writes to `out`."""
    return gpu.Session(gpu.parse_options(["--out", str(out), "--tiny", *arguments]))


def results(out: Path) -> list[dict[str, Any]]:
    """The lines of results.jsonl."""
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_every_part_on_a_cpu(tmp_path: Path) -> None:
    checkout, out = tmp_path / "nanoGPT", tmp_path / "out"
    checkout.mkdir()
    (checkout / "model.py").write_text(STAND_IN, encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(out), "--nanogpt", str(checkout)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = results(out)
    ends = {line["part"]: line for line in found if "status" in line}
    log = (out / "parts.log").read_text(encoding="utf-8")[-3000:]
    assert list(gpu.PARTS) == sorted(ends, key=list(gpu.PARTS).index), log
    assert {line["status"] for line in ends.values()} == {"done"} and done.returncode == 0, log
    lines = {line["what"]: line for line in found if "what" in line}
    assert [line for line in lines.values() if line["measured"].startswith("failed")] == [], log
    resumed = next(line for what, line in lines.items() if what.startswith("killed and resumed"))
    assert resumed["met"] and resumed["killed_at_step"] > 0
    assert lines["trained without dropout: cuda beside cpu"]["weights"]["equal"]  # here both are the CPU
    assert lines["exported to Hugging Face: log probabilities beside ours"]["largest"] < 1e-4
    assert set(lines["main.py distill"]["bits_per_byte"]) == {"control", "usual", "teacher", "student"}
    assert {"gpt2: ours", "gpt2: nanoGPT", "head alone, plain", "writing, 1x16, 2 at once: ours"} <= lines.keys()
    assert lines["gpt2: compiled sides"]["skipped"]
    assert (out / "report.md").read_text(encoding="utf-8").strip() == done.stdout.strip()
    assert all(f"| {what} |" in done.stdout for what in lines)
    assert len([path for path in out.rglob("*") if path.is_file()]) <= 8


def test_a_part_that_fails_or_hangs_is_recorded_and_ended(tmp_path: Path) -> None:
    record = {"what": "a", "measured": "1", "target": "", "met": None}
    told = f"import json, sys; print(json.dumps({record}), flush=True)"
    child = "import subprocess; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    parts = {
        "machine": gpu.Part(("-c", f"{told}; sys.exit('no such thing')"), 20),
        "same": gpu.Part(("-c", f"{told}; {child}"), 3),
        "run": gpu.Part(("-c", told), 20),
    }
    started = time.monotonic()
    with session(tmp_path) as here:
        ended = [here.do(name, part) for name, part in parts.items()]
        text = here.report()
    assert ended == ["failed", "timed out", "done"]
    assert time.monotonic() - started < 30
    found = results(tmp_path)
    assert [line["part"] for line in found if line.get("what") == "a"] == list(parts)
    ends = {line["part"]: line for line in found if "status" in line}
    assert ends["machine"]["tail"] == ["no such thing"] and ends["machine"]["code"] == 1
    assert "no such thing" in text and "| same | timed out |" in text


def test_no_part_begins_when_the_time_is_over(tmp_path: Path) -> None:
    with session(tmp_path, "--seconds", "1") as here:
        assert here.do("run", gpu.Part(("-c", "raise SystemExit('it began')"), 20)) == "skipped"
    assert results(tmp_path)[0]["status"] == "skipped"


def test_all_parts_fit_into_ten_minutes(tmp_path: Path) -> None:
    options = gpu.parse_options(["--out", str(tmp_path)])
    assert sum(part.limit for part in gpu.PARTS.values()) <= options.seconds <= 590


def test_checkpoints_are_compared_bit_by_bit(tmp_path: Path) -> None:
    weights = torch.tensor([[3.0, 4.0]])
    for name, last in (("one", 4.0), ("same", 4.0), ("other", 4.5)):
        model = {"a": torch.tensor([[3.0, last]])}
        torch.save({"model": model, "optimizer": [{"step": weights}], "seconds": time.time()}, tmp_path / name)
    assert gpu_same.difference(tmp_path / "one", tmp_path / "same") == {"equal": True, "largest": 0.0, "share": 0.0}
    apart = gpu_same.difference(tmp_path / "one", tmp_path / "other")
    assert apart == {"equal": False, "largest": 0.5, "share": pytest.approx(0.1)}


def test_long_texts_fill_the_context() -> None:
    corpus = gpu_gpt2.long_texts(gpu_gpt2.TINY)
    lengths = {len(ids) - 1 for ids in framed_ids(corpus.train, load_tokenizer())}
    assert lengths == {gpu_gpt2.TINY.block} and len(corpus.train) == gpu_gpt2.TINY.texts


def test_both_heads_have_the_same_loss_and_gradient() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(40, 16), torch.randn(99, 16) / 4, torch.randint(99, (40,))
    found = []
    for head in (gpu_gpt2.fused_head, gpu_gpt2.plain_head):
        inputs = [each.clone().requires_grad_() for each in (hidden, weight)]
        with torch.autocast("cpu", torch.bfloat16):
            loss = head(inputs[0], inputs[1], targets)
        loss.backward()
        found.append((loss.detach().float(), *(each.grad for each in inputs)))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
