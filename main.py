"""elon-transformer: train a small GPT on one person's tweets and let it write new ones.

python main.py COMMAND [prompt] [--section.key value ...]
"""

import sys
from difflib import get_close_matches
from pathlib import Path

from config.interpreter import run_elsewhere

HERE = Path(__file__).resolve()


def usage() -> str:
    """The list of commands, each with its line."""
    from config.cli import COMMANDS

    lines = [f"  {name:<12}{command.help}" for name, command in COMMANDS.items()]
    return f"{__doc__}\n" + "\n".join(lines) + "\n\n`python main.py COMMAND --help` shows its settings and an example."


def version() -> str:
    """The name and version in pyproject.toml, which an exported Space does not have."""
    import tomllib

    path = HERE.with_name("pyproject.toml")
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"] if path.is_file() else {}
    return f"elon-transformer {project.get('version', '(a copy of unknown version: there is no pyproject.toml here)')}"


def main() -> int:
    """Run the command named on the command line; returns the exit code."""
    argv = sys.argv[1:]
    if (code := run_elsewhere(HERE, argv)) is not None:
        return code
    from config.cli import COMMANDS, run_command  # only now, as an older Python can't read it
    from config.console import until_reader_leaves

    name = argv[0] if argv else ""
    if name in COMMANDS:
        return run_command(name, argv[1:])
    return until_reader_leaves(lambda: run_no_command(name))


def run_no_command(name: str) -> int:
    """Usage, version, or what is wrong with this name; returns the exit code."""
    from config.cli import COMMANDS

    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(version())
        return 0
    found = f"unknown command {name!r}" if name else "no command given"
    if near := get_close_matches(name, COMMANDS, n=1):
        print(f"error: {found}: did you mean {near[0]}?", file=sys.stderr)
        return 2
    print(f"error: {found}; choose one of: {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
