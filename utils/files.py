"""Writing files so that a reader never sees half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def naming(path: Path, *, instead_of: Path | None = None) -> Iterator[None]:
    """The system's errors inside the block say that they are about `path`; that of a full disk names no file itself.

    Args:
        instead_of: a name that tells the user nothing, to be replaced as well.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, instead_of, str(instead_of)):
            raise type(error)(error.errno, error.strerror, str(path)) from None
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is flushed to disk and renamed to `path`.

    If the block raises, the temporary file is removed and whatever `path` held before stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path, instead_of=temporary):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # a read-only disk: nothing was written
            temporary.unlink(missing_ok=True)
