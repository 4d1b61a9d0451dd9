"""Every pinned package but torch has its hashes, of the same version; uv.lock has the same versions of all."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def normal(name: str) -> str:
    """A package's name, which may be spelt in several ways, as package indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path) -> dict[str, str]:
    """Name and version of each package in a requirements file."""
    found = re.findall(r"^([\w.-]+)==([^\s\\]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {normal(name): version for name, version in found}


@pytest.mark.parametrize("path", sorted(ROOT.glob("requirements*.txt")), ids=lambda path: path.stem)
def test_hashes_are_those_of_the_pinned_versions(path: Path) -> None:
    hashed = ROOT / "hashes" / path.name
    expected = pins(path)
    expected.pop("torch", None)  # its file differs from machine to machine
    assert pins(hashed) == expected, "run `make hashes`"
    blocks = re.split(r"^(?=[\w.-]+==)", hashed.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", block) for block in blocks)


def test_uv_locks_the_pinned_versions_from_pypi() -> None:
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    packages = tomllib.loads(text)["package"]
    locked = {package["name"]: package.get("version") for package in packages}
    expected = pins(ROOT / "requirements.txt") | pins(ROOT / "requirements-full.txt")
    assert {name: locked.get(name) for name in expected} == expected, "run `make lock`"
    assert set(re.findall(r"https?://([^/\"]+)", text)) == {"pypi.org", "files.pythonhosted.org"}
    sources = [package["source"] for package in packages]
    assert [source for source in sources if "registry" not in source] == [{"virtual": "."}]


def test_pyproject_allows_the_pinned_versions() -> None:
    """Each direct dependency is pinned, in requirements.txt or requirements-full.txt as pyproject.toml groups them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = pins(ROOT / "requirements.txt")
    for group, pinned in (
        (project["dependencies"], core),
        (project["optional-dependencies"]["full"], pins(ROOT / "requirements-full.txt")),
    ):
        for requirement in map(Requirement, group):
            assert requirement.specifier.contains(pinned[normal(requirement.name)]), requirement
