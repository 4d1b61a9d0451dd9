"""Several processes, parts of a batch, and bfloat16: the steps are those of one process, and no process hangs."""

import math
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from config.cli import parse, run_command
from config.schema import Config, UserError
from model.checkpoint import load_checkpoint
from model.device import choose_device, mixed_precision, precision
from model.transformer import GPT
from tests.conftest import TINY
from trainer.batches import Epoch
from trainer.job import examples_at_once, prepare, step_bytes
from trainer.parallel import Ranks
from trainer.train import Trainer
from utils.preprocess import Tweet, load_processed
from utils.run_log import read_log

ROOT = Path(__file__).parents[1]
DOC = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
FORKS = multiprocessing.get_context("forkserver")  # what takes seconds to load is loaded once (tests/warm.py)
CALM = ("--train.learning_rate", "0.001", "--model.dropout", "0", "--train.output_dropout", "0")
COUNT = 143  # tweets, of which 129 are for training: 16 batches of 8 examples, and one of a single example
Flags = Callable[..., list[str]]


@pytest.fixture(scope="module")
def data(tweets: list[Tweet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of processed tweets."""
    root = tmp_path_factory.mktemp("data")
    source = root / "tweets.csv"
    source.write_text("text\n" + "\n".join(tweet.text for tweet in tweets[:COUNT]), encoding="utf-8")
    flags = ["--paths.root", str(root), "--data.path", str(source), "--data.near_duplicate_words", "9"]
    assert run_command("preprocess", flags) == 0
    assert len(load_processed(of(flags).paths).train) % 8 == 1
    FORKS.set_forkserver_preload(["tests.warm"])
    return root / "data"


@pytest.fixture
def flags_in(data: Path, tmp_path: Path) -> Flags:
    """Makes tiny settings with a root folder of that name, which holds the processed tweets."""

    def make(name: str, *flags: str) -> list[str]:
        shutil.copytree(data, tmp_path / name / "data")
        return ["--paths.root", str(tmp_path / name), *TINY, "--train.batch_size", "8", *flags]

    return make


def of(argv: list[str]) -> Config:
    return parse("train", argv)[0]


def alone(argv: list[str]) -> None:
    assert run_command("train", argv) == 0


# ---- two processes on this machine -----------------------------------------------------------------------------------


def after(updates: int, act: Callable[[Trainer], None]) -> None:
    """Call `act` in the second process, right after this many updates."""
    original = Trainer.step

    def update(self: Trainer, epoch: Epoch, examples: Tensor) -> None:
        original(self, epoch, examples)
        if self.ranks.rank == 1 and self.state.step == updates:
            act(self)

    pytest.MonkeyPatch().setattr(Trainer, "step", update)


def gets_a_signal() -> None:
    after(7, lambda trainer: os.kill(os.getpid(), signal.SIGTERM))


def is_killed() -> None:
    after(7, lambda trainer: os._exit(9))


def finds_nothing() -> None:
    def missing(paths: Any) -> None:
        raise UserError("processed.txt is missing")

    if os.environ["RANK"] == "1":
        pytest.MonkeyPatch().setattr("trainer.train.load_processed", missing)


def has_other_settings() -> None:
    if os.environ["RANK"] == "1":
        sys.argv.append("--train.seed=5")


def gets_a_bad_loss() -> None:
    original = Trainer.gradient

    def broken(self: Trainer, *arguments: Any) -> Tensor:
        sums = original(self, *arguments)
        return sums * math.nan if self.ranks.rank == 1 and self.state.step == 7 else sums

    pytest.MonkeyPatch().setattr(Trainer, "gradient", broken)


def work(rank: int, port: int, argv: list[str], happens: Callable[[], None] | None, output: Path) -> None:
    """One process of two. Its standard error goes to the file `output`."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    sys.argv = ["train"]
    if happens:
        happens()
    with output.open("w", encoding="utf-8", buffering=1) as sys.stderr:
        code = run_command("train", [*argv, *sys.argv[1:]])
    os._exit(code)


def train_with_two(argv: list[str], happens: Callable[[], None] | None = None) -> tuple[list[int | None], list[str]]:
    """Train with two processes; returns their exit codes and all lines that they print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outputs = [Path(of(argv).paths.root) / f"output_{rank}" for rank in range(2)]
    both = [FORKS.Process(target=work, args=(rank, port, argv, happens, outputs[rank])) for rank in range(2)]
    for process in both:
        process.start()
    until = time.monotonic() + 120
    for process in both:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
    lines = [line for path in outputs for line in path.read_text(encoding="utf-8").splitlines()]
    for path in outputs:
        path.unlink()
    return [process.exitcode for process in both], lines


def files(argv: list[str]) -> set[str]:
    root = Path(of(argv).paths.root)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def losses(argv: list[str]) -> list[float]:
    return [record["val/loss"] for record in read_log(of(argv).paths.metrics) if "val/loss" in record]


def saved(argv: list[str], part: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_checkpoint(of(argv).paths.last_model)[part]
    return found


def close(one: dict[str, Tensor], two: dict[str, Tensor], atol: float) -> bool:
    return all(torch.allclose(one[name], two[name], atol=atol) for name in one)


def test_two_processes_take_the_steps_of_one(flags_in: Flags) -> None:
    one = flags_in("one", *CALM, "--train.epochs", "3")
    two = flags_in("two", *CALM, "--train.epochs", "3")
    alone(one)
    codes, lines = train_with_two(two)
    assert codes == [0, 0]
    assert losses(one) == pytest.approx(losses(two), abs=1e-5) and len(losses(one)) == 4
    assert losses(one)[0] - losses(one)[-1] > 0.2
    assert close(saved(one, "model"), saved(two, "model"), 1e-5)
    assert files(one) == files(two)
    both = (read_log(of(one).paths.metrics), read_log(of(two).paths.metrics))
    for key in ("step", "tokens", "train/loss", "grad_norm"):
        first, second = ([record.get(key, 0) for record in records] for records in both)
        assert first == pytest.approx(second, abs=1e-4)
    assert sum("2 processes, each on cpu" in line for line in lines) == 1 == sum("[Epoch 1]" in line for line in lines)


@pytest.mark.slow
def test_a_signal_to_one_ends_both_and_resuming_is_bit_equal(
    flags_in: Flags, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = flags_in("whole"), flags_in("parts")  # with dropout
    assert train_with_two(whole)[0] == [0, 0]
    codes, lines = train_with_two(parts, gets_a_signal)
    assert codes == [130, 0]
    assert [line for line in lines if "saved after step 7" in line] == [lines[-1]]
    assert lines[-1].startswith("interrupted: ") and load_checkpoint(of(parts).paths.last_model)["state"]["step"] == 7
    fewer = flags_in("fewer", "--train.resume", "true")
    shutil.copytree(of(parts).paths.checkpoints, of(fewer).paths.checkpoints)

    parts += ["--train.resume", "true"]
    codes, lines = train_with_two(parts)
    assert codes == [0, 0] and not any("dropout draws" in line for line in lines)
    assert close(saved(whole, "model"), saved(parts, "model"), 0.0)
    assert losses(whole) == losses(parts) and files(whole) == files(parts)

    alone(fewer)
    assert "began with 2 process(es) and continues with 1: dropout draws other numbers" in capsys.readouterr().err
    assert load_checkpoint(of(fewer).paths.last_model)["state"]["epoch"] == 2


@pytest.mark.parametrize(
    ("happens", "code", "line"),
    [
        (gets_a_bad_loss, 0, "error: the loss or its gradient is not finite at step 8 "),
        (is_killed, 9, "error: another process of this run ended or can't be reached: "),
        (finds_nothing, 0, "error: process 1 of 2: processed.txt is missing"),
        (has_other_settings, 0, "error: process 1 does not have the same settings as process 0"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_goes_wrong_in_one_ends_both_with_one_line(
    flags_in: Flags, happens: Callable[[], None], code: int, line: str
) -> None:
    codes, lines = train_with_two(flags_in("run"), happens)
    assert codes == [1, code]
    assert [text for text in lines if "error" in text] == [lines[-1]] and lines[-1].startswith(line)


@pytest.mark.slow
def test_torchrun(flags_in: Flags) -> None:
    argv = flags_in("torchrun", "--train.epochs", "1")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "main.py"]
    here = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, "train", *argv], cwd=ROOT, capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr.count("[Epoch 1]") == 1 and len(losses(argv)) == 2


def test_dropout_differs_between_processes_and_repeats_with_the_step() -> None:
    def mask(rank: int, step: int) -> Tensor:
        Ranks(rank, 2).seed_dropout(0, step)
        return torch.rand(20)

    assert torch.equal(mask(1, 5), mask(1, 5))
    assert not torch.equal(mask(0, 5), mask(1, 5)) and not torch.equal(mask(0, 5), mask(0, 6))


def test_processes_that_cannot_connect_end_with_one_line(
    flags_in: Flags, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert run_command("train", flags_in("run")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the 2 processes can't connect to each other") and "torchrun" in error


# ---- parts of a batch, and bfloat16 ----------------------------------------------------------------------------------


def test_a_batch_in_parts_is_the_same_batch(flags_in: Flags) -> None:
    whole, parts = flags_in("whole", *CALM), flags_in("parts", *CALM, "--train.accumulate", "4")
    alone(whole)
    alone(parts)
    assert losses(whole) == pytest.approx(losses(parts), abs=1e-5)
    assert close(saved(whole, "model"), saved(parts, "model"), 1e-5)
    with_all, with_few = (prepare(of(argv), load_processed(of(argv).paths)) for argv in (whole, parts))
    assert examples_at_once(with_few.config, with_few.ranks.size) == math.ceil(of(whole).train.batch_size / 4)
    assert step_bytes(with_few) < step_bytes(with_all)
    whole += ["--train.resume", "true", "--train.accumulate", "2"]
    alone(whole)  # accumulate may change when a run is resumed


def test_more_parts_than_examples_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("train", ["--train.accumulate", "33"]) == 2
    assert capsys.readouterr().err == "error: train.accumulate is 33: give at most train.batch_size (32)\n"


@pytest.mark.parametrize("weight", ["0", "0.5"])  # plain and soft targets
def test_bfloat16_learns_about_the_same(flags_in: Flags, weight: str) -> None:
    flags = (*CALM, "--train.ngram_weight", weight, "--machine.precision")
    exact, rough = flags_in("exact", *flags, "f32"), flags_in("rough", *flags, "bf16")
    alone(exact)
    alone(rough)
    assert losses(exact) != losses(rough)
    assert losses(exact) == pytest.approx(losses(rough), rel=0.01)
    content = load_checkpoint(of(rough).paths.last_model)
    moments = [value for slot in content["optimizer"]["state"].values() for value in slot.values()]
    assert {tensor.dtype for tensor in [*content["model"].values(), *moments]} == {torch.float32}


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(name: str, device: str) -> torch.dtype:
        return precision(parse("train", ["--machine.precision", name])[0].machine, torch.device(device))

    for made_for_it in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, found=made_for_it: found)
        assert of("auto", "cuda") == (torch.bfloat16 if made_for_it else torch.float32)
        assert of("auto", "mps") == of("f32", "cuda") == of("f32", "cpu") == torch.float32
        assert of("bf16", "cpu") == torch.bfloat16
    for abilities, expected in (({"avx2": True}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=abilities: found)
        assert of("auto", "cpu") == expected
    before = torch.get_float32_matmul_precision()
    for device, inside in (("cuda", "high"), ("cpu", before)):
        with mixed_precision(torch.device(device), torch.float32):
            assert torch.get_float32_matmul_precision() == inside
        assert torch.get_float32_matmul_precision() == before


def test_every_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = of([]).machine
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert choose_device(machine) == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device(machine) == torch.device("cuda:1") and chosen == [1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"no GPU for process 3 of this machine: torch finds 2; .*--nproc_per_node"):
        choose_device(machine)


@pytest.mark.parametrize("weight", ["0", "0.5"])
def test_all_of_a_step_is_on_the_device(flags_in: Flags, monkeypatch: pytest.MonkeyPatch, weight: str) -> None:
    """On torch's `meta` device, which holds no numbers: a tensor left on the CPU would raise an error, as on a GPU."""
    monkeypatch.setattr("trainer.job.choose_device", lambda machine: torch.device("meta"))
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **more: nullcontext())  # it does not support that device
    config = of(flags_in("run", "--train.ngram_weight", weight))
    run = Trainer(prepare(config, load_processed(config.paths)))
    epoch = run.job.train.epoch(8, seed=0, number=0, unk_rate=0.3)
    assert run.gradient(epoch, epoch.steps[0]).is_meta
    assert all(parameter.grad is not None and parameter.grad.is_meta for parameter in run.model.parameters())


# ---- the figures in docs/scaling.md ----------------------------------------------------------------------------------


def table(head: str) -> list[list[str]]:
    """The rows of the table in docs/scaling.md whose heading begins so."""
    found = re.search(re.escape(head) + r".*\n\|[-|: ]+\n((?:\|.*\n)+)", DOC)
    assert found, head
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in found[1].splitlines()]


def number(text: str) -> float:
    return float(re.sub(r"[^0-9.e-]", "", text.split()[0]))


SHAPES = {  # layers, width and context, with GPT-2's 50,257 ids
    "124 M": ["--model.n_layer", "12", "--model.n_embd", "768", "--model.n_head", "12", "--model.block_size", "1024"],
    "1 B": ["--model.n_layer", "24", "--model.n_embd", "1792", "--model.n_head", "28", "--model.block_size", "1024"],
}


def test_what_a_model_costs() -> None:
    rows = table("| model |")
    assert [row[0] for row in rows] == list(SHAPES)
    for name, parameters, flops, memory, *hours in rows:
        config = parse("train", [*SHAPES[name], "--model.output_bias", "false"])[0].model
        with torch.device("meta"):
            count = GPT(config, 50_257).num_parameters()
        per_token = 6 * count + 12 * config.n_layer * config.n_embd * config.block_size
        assert number(parameters) == pytest.approx(count / 1e6, rel=0.005)
        assert number(flops) == pytest.approx(per_token / 1e9, rel=0.005)
        assert number(memory) == pytest.approx(20 * count / 1e9, rel=0.01)
        for cell, sustained in zip(hours, (1e12, 1e14, 8e14), strict=True):
            assert number(cell) == pytest.approx(1e9 * per_token / sustained / 3600, rel=0.02)


def test_what_communication_costs() -> None:
    for name, processes, sent, slow, fast in table("| parameters | processes |"):
        count = {"124 M": 124e6, "1 B": 1e9}[name]
        gigabytes = 2 * (int(processes) - 1) / int(processes) * 4 * count / 1e9
        assert number(sent) == pytest.approx(gigabytes, rel=0.01)
        assert number(slow) == pytest.approx(gigabytes / 1.25, rel=0.02)
        assert number(fast) == pytest.approx(gigabytes / 100, rel=0.03)


def test_its_commands_parse_and_its_links_exist() -> None:
    commands = re.findall(r"main\.py (\w+)([^`\n|#]*)", DOC)
    assert len(commands) >= 6
    for name, rest in commands:
        parse(name, rest.replace("\\", "").split())
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", DOC) if "://" not in link]
    assert links and all((ROOT / "docs" / link).is_file() for link in links)
    assert DOC.count("\n") < 120
