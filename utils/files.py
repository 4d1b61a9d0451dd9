"""Writing files so that a reader never sees half of one."""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WAITS = (0.1, 0.2, 0.3, 0.6, 0.8)  # seconds between tries to rename over a file that is open on Windows


@contextmanager
def naming(path: Path, *, instead_of: Path | None = None) -> Iterator[None]:
    """The system's errors inside the block say that they are about `path`; that of a full disk names no file itself.

    Args:
        instead_of: a name that means nothing to the user, to be replaced as well.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, instead_of, str(instead_of)):
            raise type(error)(error.errno, error.strerror, str(path)) from None
        raise


def temporary_beside(path: Path) -> Path:
    """A name beside `path`, not in use, for what is to become `path`; its folder is made where it is missing.

    What killed processes left half-written of `path` is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = re.compile(re.escape(f".{path.name}.") + r"([1-9]\d{0,8})\.tmp")
    with suppress(OSError):  # a read-only disk, a folder that can't be listed: they stay
        for left in list(path.parent.iterdir()):
            found = name.fullmatch(left.name)
            if found and not in_use(int(found[1])):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def in_use(process: int) -> bool:
    """Whether another process has this number now, or that can't be known."""
    if process == os.getpid():
        return False  # one before us had it: in a container every run may have the same
    if sys.platform == "win32":
        return True  # to ask would end it
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # another user's can't be asked, but is there
    return True


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a file over another. Windows refuses while a program has that open, so it is tried again for a while.

    Raises:
        OSError: it cannot be renamed; on Windows after two seconds.
    """
    for wait in WAITS if sys.platform == "win32" else ():
        with suppress(PermissionError):
            return os.replace(temporary, path)
        time.sleep(wait)
    os.replace(temporary, path)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is flushed to disk and renamed to `path`.

    If the block raises, the temporary file is removed and whatever `path` held before stays as it was.
    """
    temporary = temporary_beside(path)
    try:
        with naming(path, instead_of=temporary):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            put_in_place(temporary, path)
    finally:
        with suppress(OSError):  # a read-only disk: nothing was written
            temporary.unlink(missing_ok=True)
