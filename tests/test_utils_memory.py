"""The limits of containers, as Linux shows them in versions 1 and 2 of its cgroups."""

from pathlib import Path

import pytest

from utils import memory as module
from utils.memory import cores, cpu_limit, memory, memory_limit, threads_allowed

GB = 1 << 30
NONE = "9223372036854771712"  # what version 1 writes where there is no limit


def lay_out(root: Path, cgroup: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A /sys/fs/cgroup with these files, and a /proc with this self/cgroup."""
    for name, content in {"proc/self/cgroup": cgroup, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n", encoding="utf-8")
    (root / "sys").mkdir(exist_ok=True)
    return root / "sys", root / "proc"


def test_version_2_in_a_container(tmp_path: Path) -> None:
    files = {
        "sys/memory.max": str(2 * GB),
        "sys/memory.current": str(GB),
        "sys/memory.stat": f"anon 5\ninactive_file {GB // 4}\nfile 7",
        "sys/cpu.max": "250000 100000",
    }
    folders = lay_out(tmp_path, "0::/", files)
    assert memory_limit(*folders) == (2 * GB, 2 * GB - GB + GB // 4)
    assert cpu_limit(*folders) == 2


def test_the_limits_of_the_groups_around_hold_too(tmp_path: Path) -> None:
    files = {
        "sys/work.slice/memory.max": str(GB),
        "sys/work.slice/memory.current": str(GB // 2),
        "sys/work.slice/job.scope/memory.max": "max",
        "sys/work.slice/job.scope/cpu.max": "50000 100000",
        "sys/work.slice/cpu.max": "max 100000",
    }
    folders = lay_out(tmp_path, "0::/work.slice/job.scope", files)
    assert memory_limit(*folders) == (GB, GB // 2)
    assert cpu_limit(*folders) == 1, "half a core is one thread"


def test_version_1(tmp_path: Path) -> None:
    files = {
        "sys/memory/docker/abc/memory.limit_in_bytes": str(3 * GB),
        "sys/memory/docker/abc/memory.usage_in_bytes": str(2 * GB),
        "sys/memory/docker/abc/memory.stat": f"total_inactive_file {GB}\ninactive_file 5",
        "sys/memory/memory.limit_in_bytes": NONE,
        "sys/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "400000",
        "sys/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
        "sys/cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "sys/cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    folders = lay_out(tmp_path, "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/x", files)
    assert memory_limit(*folders) == (3 * GB, 2 * GB)
    assert cpu_limit(*folders) == 4


@pytest.mark.parametrize("cgroup", ["0::/", "", "0::/gone/away", "4:memory:/"])
def test_without_limits(tmp_path: Path, cgroup: str) -> None:
    folders = lay_out(tmp_path, cgroup, {"sys/memory.max": "max", "sys/cpu.max": "max 100000"})
    assert memory_limit(*folders) == (None, None) and cpu_limit(*folders) is None


def test_what_is_left_is_never_below_nothing(tmp_path: Path) -> None:
    folders = lay_out(tmp_path, "0::/", {"sys/memory.max": "100", "sys/memory.current": "250"})
    assert memory_limit(*folders) == (100, 0)


def test_they_count_for_threads_and_for_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = memory()
    files = {"sys/memory.max": str(1 << 20), "sys/memory.current": "0", "sys/cpu.max": "100000 100000"}
    cgroups, proc = lay_out(tmp_path, "0::/", files)
    monkeypatch.setattr(module, "CGROUPS", cgroups)
    monkeypatch.setattr(module, "PROC", proc)
    assert cores() == threads_allowed(64) == 1
    if before[0] is not None:
        assert memory() == (1 << 20, 1 << 20)
    monkeypatch.setattr(module, "CGROUPS", tmp_path / "nothing")
    assert 1 <= threads_allowed(64) <= 64 and threads_allowed(1) == 1
