"""Every pinned package but torch has its hashes, of the same version."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pins(path: Path) -> dict[str, str]:
    """Name and version of each package in a requirements file; names are spelt in many ways."""
    found = re.findall(r"^([\w.-]+)==([^\s\\]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


@pytest.mark.parametrize("path", sorted(ROOT.glob("requirements*.txt")), ids=lambda path: path.stem)
def test_hashes_are_those_of_the_pinned_versions(path: Path) -> None:
    hashed = ROOT / "hashes" / path.name
    expected = pins(path)
    expected.pop("torch", None)  # its file differs from machine to machine
    assert pins(hashed) == expected, "run `make hashes`"
    blocks = re.split(r"^(?=[\w.-]+==)", hashed.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", block) for block in blocks)
