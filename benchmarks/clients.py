"""Which real clients work with a running server: `python -m benchmarks.clients http://127.0.0.1:7860`.

The clients are not dependencies of this project. Install those that you want to try in a folder of their own, and name
it: `pip install --target clients litellm langchain-openai llm "lm_eval[api]"`, `PYTHONPATH=clients python -m ...`. One
that can't be imported gets a row that says so. A request works if the client gives the text or the number that the
server gives to a plain HTTP request with the same seed. Prints a Markdown table.
"""

import argparse
import contextlib
import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from export.stock_tokenizer import save_tokenizer, tokens_and_merges
from model.tokenizer import END, load_tokenizer
from server.schemas import MODEL_NAME

PROMPT = "The first people on Mars"
TEXTS = ("The rocket lands at dawn.", "Good morning, Mars!", "a longer text about cars, tunnels and the sun 🚀")
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}  # no other hosts
SEED, TOKENS = 7, 16
Json = dict[str, Any]
Tries = Iterator[tuple[str, Callable[[], object], object]]  # what is tried, how, and what it must give


@dataclass(frozen=True)
class Target:
    """The server that is tried.

    Attributes:
        address: such as http://127.0.0.1:7860.
        key: what it wants as its key; any text if it wants none.
        folder: an empty folder for the clients' files.
    """

    address: str
    key: str
    folder: Path

    @property
    def base(self) -> str:
        """The address of the API."""
        return f"{self.address}/v1"

    def get(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON at this path, by a plain request; a body is posted."""
        data = None if body is None else json.dumps({"model": MODEL_NAME, **body}).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.address + path, data, headers), timeout=60) as answer:
            return json.load(answer)

    def text(self) -> str:
        """What the model writes after PROMPT."""
        body = {"prompt": PROMPT, "seed": SEED, "max_tokens": TOKENS}
        return str(self.get("/v1/completions", body)["choices"][0]["text"])

    def nats(self, text: str) -> list[float]:
        """The natural log of each token's probability."""
        body = {"prompt": text, "max_tokens": 0, "echo": True, "logprobs": 0}
        return list(self.get("/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"])

    def longest(self) -> int:
        """The longest prompt, in tokens."""
        schemas = self.get("/openapi.json")["components"]["schemas"]
        return int(schemas["CompletionRequest"]["properties"]["prompt"]["anyOf"][2]["maxItems"])


def try_openai(target: Target) -> Tries:
    """OpenAI's own client."""
    from openai import OpenAI

    client = OpenAI(base_url=target.base, api_key=target.key, max_retries=0)
    asked: dict[str, Any] = {"model": MODEL_NAME, "seed": SEED, "max_tokens": TOKENS}
    chat: Any = client.chat.completions.create
    messages = [{"role": "user", "content": PROMPT}]
    text = target.text()
    yield "completion", lambda: client.completions.create(prompt=PROMPT, **asked).choices[0].text, text
    yield "chat", lambda: chat(messages=messages, **asked).choices[0].message.content, text
    yield (
        "chat, streamed",
        lambda: "".join(
            chunk.choices[0].delta.content or "" for chunk in chat(messages=messages, stream=True, **asked)
        ),
        text,
    )
    yield "list of models", lambda: [model.id for model in client.models.list()], [MODEL_NAME]


def try_litellm(target: Target) -> Tries:
    """LiteLLM, as a provider that is like OpenAI's."""
    import litellm

    litellm.suppress_debug_info = True
    where = {"api_base": target.base, "api_key": target.key, "seed": SEED, "max_tokens": TOKENS}
    chat = f"openai/{MODEL_NAME}"
    messages = [{"role": "user", "content": PROMPT}]
    text = target.text()
    yield "chat", lambda: litellm.completion(chat, messages, **where).choices[0].message.content, text
    yield (
        "chat, streamed",
        lambda: "".join(
            chunk.choices[0].delta.content or "" for chunk in litellm.completion(chat, messages, stream=True, **where)
        ),
        text,
    )
    plain = f"text-completion-openai/{MODEL_NAME}"
    yield "completion", lambda: litellm.text_completion(model=plain, prompt=PROMPT, **where).choices[0].text, text

    def too_long() -> str:
        try:
            litellm.completion(chat, [{"role": "user", "content": "Mars " * 5000}], **where)
        except Exception as error:  # its class is what is asked for
            return type(error).__name__
        return "no error"

    yield "a prompt that is too long", too_long, "ContextWindowExceededError"


def try_langchain(target: Target) -> Tries:
    """LangChain's models for OpenAI's API."""
    from langchain_openai import ChatOpenAI, OpenAI

    where: dict[str, Any] = {"base_url": target.base, "api_key": target.key, "model": MODEL_NAME, "max_retries": 0}
    where |= {"seed": SEED, "max_tokens": TOKENS}
    chat, plain = ChatOpenAI(**where), OpenAI(**where, temperature=0)
    text = target.text()
    greedy = {"prompt": PROMPT, "temperature": 0, "max_tokens": TOKENS}
    likeliest = target.get("/v1/completions", greedy)["choices"][0]["text"]
    yield "ChatOpenAI: invoke", lambda: chat.invoke(PROMPT).content, text
    yield "ChatOpenAI: stream", lambda: "".join(part.content for part in chat.stream(PROMPT)), text
    yield "ChatOpenAI: batch", lambda: [answer.content for answer in chat.batch([PROMPT] * 3)], [text] * 3
    yield "OpenAI: invoke", lambda: plain.invoke(PROMPT), likeliest
    yield "OpenAI: stream", lambda: "".join(plain.stream(PROMPT)), likeliest


def try_llm(target: Target) -> Tries:
    """The command `llm`, with the server among its extra models."""
    lines = []
    for name, more in (("elon", ""), ("elon-completion", "\n  completion: true")):
        lines.append(f"- model_id: {name}\n  model_name: {MODEL_NAME}\n  api_base: {target.base}{more}\n")
    (target.folder / "extra-openai-models.yaml").write_text("".join(lines), encoding="utf-8")

    def command(*arguments: str) -> str:
        options = ["-o", "seed", str(SEED), "-o", "max_tokens", str(TOKENS), "--key", target.key]
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments, *options, PROMPT],
            env={**os.environ, "LLM_USER_PATH": str(target.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        return done.stdout.removesuffix("\n")

    text = target.text()
    yield "llm -m elon", lambda: command("-m", "elon"), text
    yield "llm -m elon --no-stream", lambda: command("-m", "elon", "--no-stream"), text
    yield "a model with completion: true", lambda: command("-m", "elon-completion"), text


@dataclass(frozen=True)
class Harness:
    """lm-evaluation-harness with its model local-completions, for tasks made here."""

    target: Target

    def model(self) -> Json:
        """The model's arguments; a stock GPT-2 tokenizer is written for it."""
        longest = self.target.longest()
        ids = torch.arange(END + 1)
        save_tokenizer(self.target.folder, *tokens_and_merges(load_tokenizer(), ids), context=longest + 2)
        where: Json = {"model": MODEL_NAME, "base_url": f"{self.target.base}/completions", "max_retries": 1}
        where |= {"tokenizer": str(self.target.folder), "tokenizer_backend": "huggingface"}
        return {**where, "max_length": longest + 1}  # it keeps one token for what the model writes

    def evaluate(self, task: Json, lines: list[Json], metric: str, *, batch_size: int = 1) -> float:
        """A metric of a task on these lines, to 3 digits."""
        import lm_eval

        path = self.target.folder / "task.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        with tempfile.TemporaryDirectory() as cache:
            files = {"data_files": str(path), "cache_dir": cache}
            whole = {
                "task": "made_here",
                "dataset_path": "json",
                "dataset_kwargs": files,
                "test_split": "train",
                **task,
            }
            arguments = {**self.model(), "batch_size": batch_size}
            found = lm_eval.simple_evaluate("local-completions", arguments, [whole], bootstrap_iters=0)
        return round(float(found["results"]["made_here"][f"{metric},none"]), 3)

    def score(self, start: str, end: str) -> float:
        """The log-probability of `end` after `start`, by plain requests."""
        return sum(self.target.nats(start + end)) - sum(self.target.nats(start))

    def questions(self) -> list[Json]:
        """Beginnings with two ends each, and the end that the server itself holds more likely."""
        pairs = [(PROMPT, [" zxqj vvv", " are here."]), ("Good", [" morning.", " qqqqqqq"]), ("", ["zzzzzz", "The"])]
        return [
            {"start": start, "ends": ends, "best": int(self.score(start, ends[1]) > self.score(start, ends[0]))}
            for start, ends in pairs
        ]


def try_lm_eval(target: Target) -> Tries:
    """lm-evaluation-harness: its three kinds of request."""
    os.environ["OPENAI_API_KEY"] = target.key
    harness = Harness(target)
    choice: Json = {"output_type": "multiple_choice", "doc_to_text": "{{start}}", "doc_to_choice": "ends"}
    choice |= {"doc_to_target": "best", "target_delimiter": ""}
    questions = harness.questions()
    for size in (1, 4):
        what = f"multiple choice (loglikelihood), batch_size {size}"
        yield what, partial(harness.evaluate, choice, questions, "acc", batch_size=size), 1.0
    rolling: Json = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    rolling |= {"metric_list": [{"metric": "bits_per_byte"}]}
    size = sum(len(text.encode()) for text in TEXTS)
    bits = -sum(sum(target.nats(text)) for text in TEXTS) / math.log(2) / size
    lines = [{"text": text} for text in TEXTS]
    what = "bits per byte (loglikelihood_rolling)"
    yield what, partial(harness.evaluate, rolling, lines, "bits_per_byte"), round(bits, 3)
    writing: Json = {"output_type": "generate_until", "doc_to_text": "{{prompt}}", "doc_to_target": "{{text}}"}
    writing |= {"generation_kwargs": {"until": ["\n"], "max_gen_toks": TOKENS}}
    writing |= {"metric_list": [{"metric": "exact_match"}]}
    greedy = {"prompt": PROMPT, "temperature": 0, "max_tokens": TOKENS, "stop": ["\n"]}
    wanted = {"prompt": PROMPT, "text": target.get("/v1/completions", greedy)["choices"][0]["text"]}
    yield "writing (generate_until)", partial(harness.evaluate, writing, [wanted], "exact_match"), 1.0


CLIENTS = {  # the package: its module, and what is tried
    "openai": ("openai", try_openai),
    "litellm": ("litellm", try_litellm),
    "langchain-openai": ("langchain_openai", try_langchain),
    "llm": ("llm", try_llm),
    "lm_eval": ("lm_eval", try_lm_eval),
}


def rows(package: str, module: str, tries: Callable[[Target], Tries], target: Target) -> Iterator[tuple[str, ...]]:
    """The rows of one client: its name, its version, what was tried, and whether it works."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        yield package, "", "", f"not tried: {error}"
        return
    try:
        for what, call, expected in tries(target):
            try:
                found = call()
                outcome = "works" if found == expected else f"gives {found!r} instead of {expected!r}"
            except Exception as error:  # whatever a client raises is what the table is for
                outcome = f"fails: {type(error).__name__}: {error}"
            yield package, version(package), what, outcome
    except Exception as error:  # it could not even be set up
        yield package, version(package), "set up", f"fails: {type(error).__name__}: {error}"


def main() -> None:
    """Try every client, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("address", help="of a running server, such as http://127.0.0.1:7860")
    parser.add_argument("--key", default="any", help="the server's key, if it has one")
    arguments = parser.parse_args()
    os.environ.update(QUIET)
    print("| client | version | what was tried | outcome |\n| --- | --- | --- | --- |")
    for package, (module, tries) in CLIENTS.items():
        with tempfile.TemporaryDirectory() as folder:
            target = Target(arguments.address.rstrip("/"), arguments.key, Path(folder))
            with contextlib.redirect_stdout(sys.stderr):
                found = list(rows(package, module, tries, target))
        for row in found:
            print(
                "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ")[:300] for cell in row) + " |", flush=True
            )


if __name__ == "__main__":
    main()
