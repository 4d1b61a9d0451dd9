"""elon-transformer: train a small GPT on one person's tweets and let it write new ones.

python main.py COMMAND [prompt] [--section.key value ...]
"""

import sys

from config.cli import COMMANDS, run_command


def usage() -> str:
    """The list of commands, each with its line."""
    lines = [f"  {name:<12}{command.help}" for name, command in COMMANDS.items()]
    return f"{__doc__}\n" + "\n".join(lines) + "\n\n`python main.py COMMAND --help` shows its settings and an example."


def main() -> int:
    """Run the command named on the command line; returns the exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        return run_command(name, sys.argv[2:])
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    found = f"unknown command {name!r}" if name else "no command given"
    print(f"error: {found}; choose one of: {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
