"""Part of benchmarks/gpu.py: whether a GPU learns, goes on, writes and exports as the CPU does.

The default model on the tweets that ship, each run a process of its own, several at once:

    without dropout     on the CPU; on the GPU in true float32, in TF32 (what `machine.precision f32` is there) and in
                        bfloat16: bits per byte and weights are compared with the CPU's
    with everything     the default settings twice, and once killed (SIGKILL) and resumed: the weights and AdamW's state
                        should be equal to the last bit. And twice with torch's deterministic algorithms, which name
                        whatever has none

The model of the default run then writes with a seed, twice, and is exported; transformers' logits are compared with
ours on the GPU, text by text.
"""

import argparse
import io
import json
import math
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu_shared import SAMPLE, Command, options_of, record, skip, start, tiny_flags, tweets_of

STILL = ("--model.dropout", "0", "--train.output_dropout", "0", "--train.epochs", "2", "--train.sample_every", "0")
WHOLE = ("--train.epochs", "3", "--train.sample_every", "0")
FLOAT32 = ("--machine.precision", "f32")
TRUE_FLOAT32 = {"NVIDIA_TF32_OVERRIDE": "0"}  # read by NVIDIA's libraries: they never use TF32
# Asks torch for deterministic algorithms and lets it say which operations have none.
DETERMINISTIC = """
import sys
import torch
from config.cli import run_command
torch.use_deterministic_algorithms(True, warn_only=True)
sys.exit(run_command("train", sys.argv[1:]))
"""
WORKSPACE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # without it cuBLAS may add in another order each time
NO_ALGORITHM = re.compile("deterministic (implementation|algorithm)|non-?deterministic")  # torch's warnings
BITS = {"cuda": 0.0005, "cuda, TF32": 0.003, "cuda, bfloat16": 0.01}  # bits per byte that may differ from the CPU's
WEIGHTS = 0.001  # share of the weights' norm that may differ in true float32; 1 and 2 CPU threads: 2e-7
LOGITS = 1e-4
TEXTS = 40  # validation tweets whose logits are compared
PROMPT = "Tesla will"


@dataclass(frozen=True)
class Run:
    """A training run: its flags after those that all have, its device, and variables of its environment."""

    flags: tuple[str, ...]
    device: str
    env: Mapping[str, str]
    code: str = ""  # run instead of main.py


def runs_of(device: str, *, tiny: bool) -> dict[str, Run]:
    """The runs by name; tiny: one of each kind."""
    found = {
        "cpu": Run((*STILL, *FLOAT32), "cpu", {}),
        "cuda": Run((*STILL, *FLOAT32), device, TRUE_FLOAT32),
        "cuda, TF32": Run((*STILL, *FLOAT32), device, {}),
        "cuda, bfloat16": Run((*STILL, "--machine.precision", "bf16"), device, {}),
        "whole": Run(WHOLE, device, {}),
        "again": Run(WHOLE, device, {}),
        "deterministic": Run(WHOLE, device, WORKSPACE, DETERMINISTIC),
        "deterministic again": Run(WHOLE, device, WORKSPACE, DETERMINISTIC),
    }
    return {name: found[name] for name in ("cpu", "cuda", "whole")} if tiny else found


class Trial:
    """All runs, each under a folder of its own, with the same tweets."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.ends_at = time.perf_counter() + options.limit - 25.0  # what comes after the runs takes so long
        self.common = tiny_flags("train") if options.tiny else []
        csv = tweets_of(options, folder) if options.tiny else SAMPLE
        flags = ["--paths.root", str(folder / "tweets"), *self.common, "--data.path", str(csv)]
        made = start("main.py", "preprocess", *flags, name="preprocess").wait(60)
        if made.failed:
            raise SystemExit(f"error: preprocess: {made.tail}")

    def flags(self, name: str, device: str) -> list[str]:
        """The flags of a command that works on the run `name`."""
        return [*self.common, "--paths.root", str(self.folder / name), "--machine.device", device]

    def begin(self, name: str, run: Run, *more: str) -> Command:
        """Start a run, in its folder if it is there already."""
        if not (root := self.folder / name).exists():
            shutil.copytree(self.folder / "tweets", root)
        threads = {"OMP_NUM_THREADS": "1" if self.options.tiny else "4"}
        what = ("-W", "always", "-c", run.code) if run.code else ("main.py", "train")
        flags = [*self.flags(name, run.device), *run.flags, *more]
        return start(*what, *flags, name=name, env={**threads, **run.env})

    def train(self, name: str, run: Run) -> Command:
        """A run from its beginning to its end."""
        return self.begin(name, run).wait(self.ends_at - time.perf_counter())

    def kill_and_resume(self, name: str, run: Run) -> tuple[Command, int]:
        """A run that is killed once it has saved, and goes on; also the step it went on from, 0: it was not killed."""
        first = self.begin(name, run, "--train.save_minutes", "0")
        last = self.folder / name / "checkpoints" / "last_model.pth"
        while first.process.poll() is None and not last.is_file() and time.perf_counter() < self.ends_at:
            time.sleep(0.005)
        time.sleep(0.3)
        first.process.kill()
        first.wait(10)
        if first.process.returncode == 0 or not last.is_file():
            return first, 0
        step = int(checkpoint(last)["state"]["step"])
        return self.begin(name, run, "--train.resume", "true").wait(self.ends_at - time.perf_counter()), step

    def best(self, name: str) -> Path:
        """The run's best model."""
        return self.folder / name / "checkpoints" / "best_model.pth"

    def last(self, name: str) -> Path:
        """All that the run saved at its end."""
        return self.folder / name / "checkpoints" / "last_model.pth"


# ---- comparing -------------------------------------------------------------------------------------------------------


def checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds."""
    import torch

    found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def bits(root: Path) -> float:
    """Bits per byte on the validation tweets after a run's last epoch."""
    lines = (root / "results" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    values = [json.loads(line).get("val/bits_per_byte") for line in lines]
    return float([value for value in values if value is not None][-1])


def tensors(value: Any, name: str = "") -> dict[str, Any]:
    """Every tensor in nested dicts and lists, by its place."""
    import torch

    if isinstance(value, torch.Tensor):
        return {name: value}
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {place: found for key, item in inside for place, found in tensors(item, f"{name}/{key}").items()}


def difference(path: Path, other: Path) -> dict[str, Any]:
    """How far the weights of two checkpoints are apart: at most, and by the norm as a share of the first's norm.

    `equal` says whether all tensors of the checkpoints, AdamW's too, are equal to the last bit.
    """
    import torch

    one, two = checkpoint(path), checkpoint(other)
    all_one, all_two = tensors(one), tensors(two)
    equal = all_one.keys() == all_two.keys() and all(torch.equal(all_one[name], all_two[name]) for name in all_one)
    weights, others = tensors(one["model"]), tensors(two["model"])
    apart = [(weights[name].double() - others[name].double()).abs() for name in weights]
    norm = math.sqrt(sum(float(each.double().square().sum()) for each in weights.values()))
    return {
        "equal": equal,
        "largest": max(float(each.max()) for each in apart),
        "share": math.sqrt(sum(float(each.square().sum()) for each in apart)) / norm,
    }


def compare_devices(trial: Trial, done: Mapping[str, Command]) -> None:
    """Bits per byte and weights of each run without dropout, beside the CPU's."""
    for name, allowed in BITS.items():
        if name not in done:
            continue
        what = f"trained without dropout: {name} beside cpu"
        if wrong := [which for which in ("cpu", name) if done[which].failed]:
            record(what, f"failed: {wrong[0]}: {done[wrong[0]].tail}", met=False)
            continue
        ours, theirs = bits(trial.folder / "cpu"), bits(trial.folder / name)
        apart = difference(trial.best("cpu"), trial.best(name))
        close = abs(ours - theirs) <= allowed and (name != "cuda" or apart["share"] <= WEIGHTS)
        target = f"{allowed} bits per byte" + (f", weights {WEIGHTS:.1%}" if name == "cuda" else "")
        record(
            what,
            f"{theirs:.5f} and {ours:.5f} bits per byte; weights {apart['share']:.1e} of their norm apart, "
            f"{apart['largest']:.1e} at most",
            target=target,
            met=close,
            bits_per_byte={"cpu": ours, name: theirs},
            weights=apart,
        )


def compare_runs(trial: Trial, what: str, one: str, two: str, *, target: str, **values: Any) -> None:
    """Whether two runs ended with the same bits."""
    apart = difference(trial.last(one), trial.last(two))
    told = "equal to the last bit" if apart["equal"] else f"weights {apart['share']:.1e} of their norm apart"
    scores = {name: bits(trial.folder / name) for name in (one, two)}
    told += f"; {scores[one]:.5f} and {scores[two]:.5f} bits per byte"
    met = bool(apart["equal"]) if target else None
    record(what, told, target=target, met=met, difference=apart, bits_per_byte=scores, **values)


def compare_repeats(trial: Trial, done: Mapping[str, Command], step: int) -> None:
    """Killed and resumed beside whole; whole twice; deterministic twice."""
    pairs = {
        "killed and resumed, beside a run left alone": ("whole", "killed", "equal to the last bit"),
        "the same run twice": ("whole", "again", ""),
        "the same run twice, deterministic algorithms": ("deterministic", "deterministic again", ""),
    }
    for what, (one, two, target) in pairs.items():
        if not {one, two} <= done.keys():
            continue
        if wrong := [name for name in (one, two) if done[name].failed]:
            record(what, f"failed: {wrong[0]}: {done[wrong[0]].tail}", met=False)
        elif two == "killed" and step == 0:
            record(what, f"the run ended before it was killed: {done[two].tail}", met=False)
        else:
            more = {"killed_at_step": step} if two == "killed" else {}
            compare_runs(trial, what + (f" (killed at step {step})" if more else ""), one, two, target=target, **more)
    if "deterministic" in done:
        said = sorted({line for _, line in done["deterministic"].said if NO_ALGORITHM.search(line)})
        record("operations with no deterministic algorithm", "; ".join(said)[:600] or "none", warnings=said)


# ---- writing and exporting -------------------------------------------------------------------------------------------


def written(trial: Trial, device: str) -> list[str]:
    """Texts that the whole run's model writes with a seed; what `main.py generate --json` prints."""
    from config.cli import run_command

    flags = [*trial.flags("whole", device), "--generate.seed", "7", "--generate.num_samples", "8"]
    out = io.StringIO()
    with redirect_stdout(out):
        code = run_command("generate", [PROMPT, "--json", *flags])
    assert code == 0, f"generate on {device} ended with code {code}"
    return [sample["text"] for sample in json.loads(out.getvalue())["samples"]]


def compare_texts(trial: Trial) -> None:
    """The same seed twice on the GPU, and on the CPU."""
    device = trial.options.device
    first, second, on_cpu = written(trial, device), written(trial, device), written(trial, "cpu")
    alike = sum(one == two for one, two in zip(first, on_cpu, strict=True))
    met = first == second
    told = f"{'equal' if met else 'different'} texts; {alike} of {len(first)} are the CPU's"
    record("written twice with a seed", told, target="equal", met=met, same_as_cpu=alike)


def compare_logits(trial: Trial) -> None:
    """Export the whole run's model; its log probabilities in transformers, beside ours, both on the GPU."""
    what = "exported to Hugging Face: log probabilities beside ours"
    if find_spec("transformers") is None:
        skip(what, "transformers is not installed")
        return
    import torch

    from benchmarks.generate_speed import load_stock
    from config.cli import run_command
    from model.checkpoint import load_bundle
    from model.tokenizer import END

    folder, device = trial.folder / "exported", torch.device(trial.options.device)
    with redirect_stdout(sys.stderr):
        code = run_command("export", [*trial.flags("whole", "cpu"), "--export.output", str(folder)])
    assert code == 0, f"export ended with code {code}"
    stock, _ = load_stock(folder, device)
    bundle = load_bundle(trial.best("whole"), device)
    lines = (trial.folder / "tweets" / "data" / "processed.txt").read_text(encoding="utf-8").splitlines()
    largest = 0.0
    with torch.inference_mode():
        for text in lines[:TEXTS]:
            ids = [END, *bundle.tokenizer.encode(text)][:100]
            logits = bundle.model(bundle.vocabulary.from_gpt2(ids)[None].to(device)).cpu()
            theirs = stock(torch.tensor([ids], device=device)).logits.log_softmax(-1).cpu()
            largest = max(largest, float((bundle.vocabulary.log_probs(logits) - theirs).abs().max()))
    told = f"{largest:.1e} apart at most, over {min(TEXTS, len(lines))} tweets"
    record(what, told, target=f"{LOGITS:.0e}", met=largest <= LOGITS, largest=largest)


def main() -> int:
    """Train all, then compare; what fails is recorded and the others go on."""
    options = options_of(__doc__ or "", ["same"])
    code = 0
    with tempfile.TemporaryDirectory() as place:
        trial = Trial(options, Path(place))
        runs = runs_of(options.device, tiny=options.tiny)
        with ThreadPoolExecutor(2 if options.tiny else 9) as pool:
            killed = pool.submit(trial.kill_and_resume, "killed", runs["whole"])
            futures = {name: pool.submit(trial.train, name, run) for name, run in runs.items()}
        done = {name: future.result() for name, future in futures.items()}
        done["killed"], step = killed.result()
        for name, command in done.items():
            if not command.failed:
                told = f"{name}: {command.seconds:.0f} s, {bits(trial.folder / name):.5f} bits per byte"
                print(told, file=sys.stderr)
        checks = {
            "devices": lambda: compare_devices(trial, done),
            "repeats": lambda: compare_repeats(trial, done, step),
            "texts": lambda: compare_texts(trial),
            "logits": lambda: compare_logits(trial),
        }
        for name, check in checks.items():
            try:
                check()
            except Exception as error:
                code = 1
                traceback.print_exc()
                record(f"check of {name}", f"failed: {type(error).__name__}: {error}"[:400], met=False)
    return code


if __name__ == "__main__":
    sys.exit(main())
