"""Errors that the user can correct, and the check of a setting that raises them."""


class UserError(ValueError):
    """An error that the user can correct. It is shown as one line, without a traceback."""


def require(ok: bool, key: str, found: object, fix: str) -> None:
    """Raise a UserError that names the setting, what was found and what to do, unless `ok`."""
    if not ok:
        raise UserError(f"{key} is {found!r}: {fix}")
