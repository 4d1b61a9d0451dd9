"""One command line for every command: config.yaml < --config FILE < --section.key value.

The help text of a setting is its comment in config.yaml, so that there is one explanation and it cannot drift.
"""

import difflib
import errno
import importlib
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Any

from config.console import prepare_streams, until_reader_leaves
from config.schema import REMOVED, RENAMED, SECTIONS, Config, UserError
from config.values import WrongType, from_node, from_text, in_words, kinds_of, read_config

CONFIG_FILE = Path(__file__).with_name("config.yaml")
KINDS = {f"{section}.{field.name}": field.type for section, kind in SECTIONS.items() for field in fields(kind)}
LOADS_TORCH = ("run", "train", "distill", "generate", "evaluate", "export", "attention", "serve")
KEPT = "; what was saved before is whole: "
ROOM = f"{KEPT}make room, or give another folder with --paths.root DIR"
ADVICE = {  # what to do, by the system's error number
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), ROOM),
    errno.EROFS: f"{KEPT}give a folder that can be written to with --paths.root DIR",
}


@dataclass(frozen=True)
class Command:
    """A sub-command: where its code is, what it says of itself, and what it takes beside settings."""

    target: str  # "module:function", imported only when it runs
    help: str
    example: str
    sections: tuple[str, ...]  # the settings shown in its --help; all are accepted
    prompt: bool = False  # takes a prompt
    json: bool = False  # takes --json


COMMANDS = {
    "run": Command(
        "pipeline.run:run",
        "the whole job: preprocess, train, evaluate, samples, plot",
        "python main.py run --data.path my_tweets.csv",
        ("paths", "machine", "data", "model", "train", "generate"),
    ),
    "download": Command(
        "utils.kaggle:download",
        "fetch the default tweets from Kaggle to data/elon_tweets.csv (no account needed)",
        "python main.py download",
        ("paths",),
    ),
    "preprocess": Command(
        "utils.preprocess:run",
        "read, clean, de-duplicate and split the tweets into data/processed.txt",
        "python main.py preprocess --data.path my_tweets.csv --data.column body",
        ("paths", "data"),
    ),
    "train": Command(
        "trainer.train:run",
        "train the transformer on data/processed.txt",
        "python main.py train --train.epochs 20 --model.n_layer 2",
        ("paths", "machine", "model", "train"),
    ),
    "distill": Command(
        "distillation.distill:run",
        "teach a student with an ensemble and an n-gram, beside the same student without: results/distillation.json",
        "python main.py distill --distill.members 3 --distill.weight 0.5",
        ("paths", "machine", "model", "train", "distill"),
    ),
    "generate": Command(
        "generate.generate:run",
        "write tweets that begin with a prompt; without one, ask for prompts, or read them from standard input",
        'python main.py generate "Tesla will" --generate.temperature 0.7',
        ("paths", "machine", "generate"),
        prompt=True,
        json=True,
    ),
    "evaluate": Command(
        "evaluation.evaluate:run",
        "judge a model on the validation tweets, beside the baselines: results/report.html",
        "python main.py evaluate --evaluate.model gpt2 --evaluate.against checkpoints/best_model.pth",
        ("paths", "machine", "generate", "evaluate"),
        json=True,
    ),
    "export": Command(
        "export.export:run",
        "take a model elsewhere: a Hugging Face folder, or a GGUF file with a Modelfile for Ollama",
        "python main.py export --export.to gguf --export.output elon/elon.gguf --export.quantize q8_0",
        ("paths", "generate", "export"),
        json=True,
    ),
    "attention": Command(
        "inspection.page:run",
        "look inside a model as it reads a text: results/attention.html and attention_map.png",
        'python main.py attention "Mars is" --attention.against checkpoints/teacher.pth',
        ("paths", "machine", "attention"),
        prompt=True,
    ),
    "serve": Command(
        "web.serve:serve",
        "the playground and an OpenAI-compatible API, on http://127.0.0.1:7860",
        "python main.py serve --serve.port 8000",
        ("paths", "machine", "generate", "serve"),
    ),
    "plot": Command(
        "utils.plot_loss:run",
        "draw results/loss_plot.png from results/metrics.jsonl",
        "python main.py plot",
        ("paths",),
    ),
    "doctor": Command(
        "pipeline.doctor:run",
        "what is installed, the device, memory, disk, the tweets a run would use and about how long it would take",
        "python main.py doctor --data.path my_tweets.csv",
        ("paths", "machine", "data", "model", "train"),
        json=True,
    ),
}


def settings() -> dict[str, tuple[str, str]]:
    """Every setting of config.yaml by dotted name: its value and its comment, both as written there."""
    found, section = {}, ""
    for line in CONFIG_FILE.read_text(encoding="utf-8").splitlines():
        if header := re.match(r"(\w+):\s*$", line):
            section = header[1]
        elif setting := re.match(r"  (\w+): (.*?)\s+# (.+)$", line):
            found[f"{section}.{setting[1]}"] = (setting[2], setting[3])
    return found


def help_text(name: str) -> str:
    """What `main.py NAME --help` prints."""
    command = COMMANDS[name]
    arguments = ("[prompt] " if command.prompt else "") + ("[--json] " if command.json else "")
    lines = [
        f"usage: main.py {name} {arguments}[--config FILE] [--section.key value ...]",
        f"\n{command.help}\n\nexample:\n  {command.example}",
        "\nA value is taken as it is typed. Lists are written [a, b]. null unsets a list, a number or a yes-or-no;"
        "\na setting that holds text is unset by leaving it out, or by null in a --config FILE.",
        "\nsettings (with their defaults; config/config.yaml has them all, and every command takes them all):",
    ]
    for key, (value, comment) in settings().items():
        if key.split(".")[0] in command.sections:
            lines.append(f"  --{key} {value:<{max(1, 34 - len(key))}} {comment}")
    return "\n".join(lines)


@dataclass
class Typed:
    """A command line, taken apart: the flags as (name, text) in order, and the config files."""

    flags: list[tuple[str, str]]
    files: list[Path]
    prompt: str | None = None
    json: bool = False


def take_apart(command: Command, argv: Sequence[str]) -> Typed:
    """Which words of a command line are flags, their values, config files and the prompt.

    Raises:
        UserError: an unknown flag, a flag without its value, or a word too many.
    """
    typed, rest, only_words = Typed([], []), list(argv), False
    while rest:
        word = rest.pop(0)
        if word == "--" and not only_words:
            only_words = True
        elif re.match(r"--|-[A-Za-z]+$", word) and not only_words:
            name, equals, text = word.lstrip("-").partition("=")
            if name == "json" and command.json and not equals:
                typed.json = True
                continue
            if name != "config" and name not in KINDS:
                raise UserError(unknown(name, command.sections))
            if not equals and (not rest or is_flag(rest[0])):
                raise UserError(f"--{name} needs a value: give {in_words(KINDS.get(name, str), flag=True)}")
            text = text if equals else rest.pop(0)
            if name == "config":
                typed.files.append(Path(text).expanduser())
            else:
                typed.flags.append((name, text))
        elif command.prompt and typed.prompt is None:
            typed.prompt = as_utf8(word)
        elif command.prompt:
            words = " ".join([typed.prompt or "", word, *takewhile(lambda each: not each.startswith("-"), rest)])
            raise UserError(f'the prompt has several words: put it in quotes, such as "{words}"')
        else:
            raise UserError(f"unrecognized arguments: {word}")
    return typed


def is_flag(word: str) -> bool:
    """Whether a word is a flag that this program knows."""
    name = word[2:].partition("=")[0]
    return word.startswith("--") and (name in KINDS or name in ("config", "json"))


def as_utf8(word: str) -> str:
    """An argument whose bytes the system's encoding could not read, read as UTF-8."""
    return os.fsencode(word).decode("utf-8", "replace") if re.search("[\ud800-\udfff]", word) else word


def parse(name: str, argv: Sequence[str]) -> tuple[Config, Namespace]:
    """The settings and the other arguments of one command.

    Raises:
        UserError: an unknown key, a wrong type or a contradiction, in one line.
    """
    typed, values = take_apart(COMMANDS[name], argv), dict[str, Any]()
    for path in (CONFIG_FILE, *typed.files):
        for key, node in read_config(path).items():
            if key not in KINDS:
                raise UserError(f"{unknown(key)} ({path})")
            values[key] = checked(key, from_node, node)
    for key, text in typed.flags:
        values[key] = checked(key, from_text, text)
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, value in values.items():
        section, _, field = key.partition(".")
        sections[section][field] = value
    if missing := sorted(KINDS.keys() - values.keys()):
        raise UserError(f"{CONFIG_FILE} has no {missing[0]}: put it back")
    config = Config(**{section: kind(**sections[section]) for section, kind in SECTIONS.items()})
    return config, Namespace(prompt=typed.prompt, json=typed.json)


def checked(key: str, read: Callable[[Any, Any], Any], given: object) -> object:
    """The value of a setting.

    Raises:
        UserError: it has the wrong type; says what to give.
    """
    try:
        return read(KINDS[key], given)
    except WrongType as error:
        found, flag = f"{str(error)!r}" if str(error) else "empty", read is from_text
        default = settings()[key][0]
        example = f", such as {default}" if re.fullmatch(r"[\d.]+", default) else ""
        hint = "; a text that begins with # needs quotes"
        if flag:
            hint = ", or leave the flag out" if NoneType in kinds_of(KINDS[key]) else ""
        raise UserError(
            f"{key} is {found}: give {in_words(KINDS[key], flag=flag)}{example}{'' if str(error) else hint}"
        ) from None


def unknown(key: str, sections: Sequence[str] = ()) -> str:
    """What to say of a setting that there is not: its new name, or the nearest known one.

    Args:
        sections: those of the command, which come first if several have a setting of this name.
    """
    section = key.partition(".")[0]
    if key in RENAMED:
        return f"{key} is now called {section}.{RENAMED[key]}"
    if key in REMOVED:
        return f"{key} was removed, leave it out: {REMOVED[key]}"
    same = [name for name in KINDS if "." not in key and name.endswith(f".{key}")]
    first = [name for section in sections for name in same if name.startswith(f"{section}.")]
    near = [*first, *same] or difflib.get_close_matches(key, settings(), n=1)
    return f"unknown setting {key}" + (f": did you mean {near[0]}?" if near else ": see --help for the settings")


def refuse_many(name: str, processes: int) -> int:
    """Say, as the first of several processes, that this command is for one; the others leave in silence."""
    if os.environ.get("RANK", "0") != "0":
        return 0
    print(
        f"error: `{name}` is work for one process, not {processes}: start it without torchrun. Only training is "
        f"shared: python main.py preprocess, torchrun --nproc_per_node {processes} main.py train, "
        "python main.py evaluate",
        file=sys.stderr,
    )
    return 2


def run_command(name: str, argv: Sequence[str]) -> int:
    """Parse, run, and turn what goes wrong into one line and an exit code: 0, 1 failed, 2 wrong usage, 130 Ctrl-C."""
    return until_reader_leaves(lambda: parse_and_run(name, argv))


def parse_and_run(name: str, argv: Sequence[str]) -> int:
    """`run_command`, but it raises BrokenPipeError."""
    prepare_streams(json_output="--json" in argv)
    if {"-h", "--help"} & set(argv):
        print(help_text(name))
        return 0
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1 and name != "train":  # torchrun started this
        return refuse_many(name, processes)
    try:
        config, arguments = parse(name, argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    module, function = COMMANDS[name].target.split(":")
    if name in LOADS_TORCH and sys.stderr.isatty():
        print("Starting ...", file=sys.stderr, flush=True)  # importing torch may take seconds
    try:
        command: Callable[[Config, Namespace], None] = getattr(importlib.import_module(module), function)
        command(config, arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise  # the reader of our output left, which is no fault
    except OSError as error:
        text = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        print(f"error: {text}{ADVICE.get(error.errno or 0, '')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"interrupted: {error}" if str(error) else "interrupted", file=sys.stderr)
        return 130
    return 0
