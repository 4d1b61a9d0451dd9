"""One run at a time in a folder: a lock that the system releases when its process ends, however it ends."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.schema import UserError
from utils.files import naming

LOCK = ".lock"  # stays when it is free again: removing it would let two others lock two files of one name
BUSY = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)


def take(handle: int) -> None:
    """Lock an open file until it is closed or its process dies.

    Raises:
        OSError: another process has it (BUSY), or this file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, 1 << 20, os.SEEK_SET)  # a locked byte can't be read: lock one that is not there
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """While entered, no other process enters for the same folder of checkpoints.

    What a killed process left half-written there is removed.

    Raises:
        UserError: another process is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with naming(path), path.open("a+", encoding="utf-8") as file:
        try:
            take(file.fileno())
        except OSError as error:
            if error.errno in BUSY:
                file.seek(0)
                raise UserError(
                    f"process {file.read().strip() or '(just starting)'} is already training in {folder}: wait for it, "
                    "end it, or give this run a folder of its own with --paths.root DIR"
                ) from None
            print(f"{folder} can't be locked here: start no second run in it", file=sys.stderr)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        for left in folder.rglob(".*.tmp"):
            left.unlink(missing_ok=True)
        yield
