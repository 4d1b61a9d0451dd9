"""How much memory and how many cores this process may use: the machine's, or less in a container."""

import os
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")  # where Linux shows the limits of containers
PROC = Path("/proc")
UNLIMITED = 1 << 60  # version 1 writes a number near 2^63 for no limit


def memory() -> tuple[int | None, int | None]:
    """Bytes of memory, and of memory that can be had now; None where this system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None, None
    lines = text_of(PROC / "meminfo").splitlines()
    free = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    limit, left = memory_limit(CGROUPS, PROC)
    return min(total, limit or total), left if free is None else min(free, left if left is not None else free)


def cores() -> int | None:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # of Linux: as `taskset` and Docker's --cpuset-cpus set it
    found = len(affinity(0)) if affinity else os.cpu_count()
    limit = cpu_limit(CGROUPS, PROC)
    return limit if found is None else min(found, limit or found)


def threads_allowed(wanted: int) -> int:
    """At most as many threads as cores may be used: more would only wait for each other."""
    return max(1, min(wanted, cores() or wanted))


def text_of(path: Path) -> str:
    """What a file of the system says; "" where it is not there or may not be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def groups(cgroups: Path, proc: Path, controller: str) -> list[tuple[Path, bool]]:
    """The folders of this process's cgroup and those around it, whose limits hold too; and whether they are version 2.

    Args:
        controller: "memory" or "cpu".
    """
    found = []
    for line in text_of(proc / "self" / "cgroup").splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if not path or (names and controller not in names.split(",")):
            continue
        # In a container, the path may be the host's while the folder shows the container's own limits at its top.
        roots = [cgroups / names, cgroups / controller] if names else [cgroups, cgroups / "unified"]
        parts = PurePosixPath(path).parts[1:]
        inside = ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]
        found += [(root / folder, not names) for root in roots if root.is_dir() for folder in inside]
    return found


def memory_limit(cgroups: Path, proc: Path) -> tuple[int | None, int | None]:
    """Bytes that the cgroup allows, and what is left of them; None where there is no limit."""
    limits, lefts = [], []
    for folder, second in groups(cgroups, proc, "memory"):
        limit = text_of(folder / ("memory.max" if second else "memory.limit_in_bytes")).strip()
        if not limit.isdecimal() or int(limit) >= UNLIMITED:
            continue
        used = text_of(folder / ("memory.current" if second else "memory.usage_in_bytes")).strip()
        lines = [line.split() for line in text_of(folder / "memory.stat").splitlines()]
        names = ("inactive_file",) if second else ("total_inactive_file",)
        cached = sum(int(line[1]) for line in lines if line[0] in names)  # files read, which the system can let go
        limits.append(int(limit))
        lefts.append(max(0, int(limit) - max(0, (int(used) if used.isdecimal() else 0) - cached)))
    return min(limits, default=None), min(lefts, default=None)


def cpu_limit(cgroups: Path, proc: Path) -> int | None:
    """Whole cores that the cgroup allows, at least 1; None where there is no limit."""
    found = []
    for folder, second in groups(cgroups, proc, "cpu"):
        if second:
            quota, _, period = text_of(folder / "cpu.max").strip().partition(" ")
        else:
            quota, period = (text_of(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:  # "max" and -1: no limit
            found.append(max(1, int(quota) // int(period)))
    return min(found, default=None)
