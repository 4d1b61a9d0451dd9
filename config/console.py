"""Standard input, output and error, so that no terminal's encoding and no closed stream stops a command."""

import codecs
import json
import os
import sys
from collections.abc import Callable

ESCAPE = "escape-as-json"


def escape(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: what the encoding can't hold is written as in JSON, so that JSON stays JSON."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def open_closed_streams() -> None:
    """Give the null device to each standard stream that is closed.

    Otherwise the next file that is opened would get the stream's number, and what a library prints would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, which is this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (open for as long as we run)


def stdin_is_closed() -> bool:
    """Whether this process was started without standard input."""
    return sys.__stdin__ is None


def until_reader_leaves(command: Callable[[], int]) -> int:
    """The exit code of `command`; or 1, in silence, once nobody reads our output any more, as after `| head`."""
    try:
        code = command()
        print(end="", flush=True)
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes when it ends
        return 1


def prepare_streams(*, json_output: bool = False) -> None:
    """Make the standard streams safe to use; with `json_output`, standard output is ASCII unless it is UTF-8."""
    open_closed_streams()
    codecs.register_error(ESCAPE, escape)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors=ESCAPE)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if json_output and codecs.lookup(encoding).name != "utf-8" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="ascii", errors=ESCAPE)
    if reconfigure := getattr(sys.stdin, "reconfigure", None):
        reconfigure(errors="replace")
