"""On what a run was made: the machine, the packages, the kernels."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import streambn
from benchmarks.peers import PEERS
from streambn import kernels


def machine() -> dict[str, object]:
    """Describe the machine, as far as it lets itself be asked."""
    return {
        "cpu": _cpu(),
        "cores": _cores(),
        "caches": _caches(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Give the version of streambn and of each peer that is installed."""
    others = {
        p.package: metadata.version(p.package) for p in PEERS if p.module not in (None, streambn)
    }
    return {"streambn": streambn.__version__, **others}


def kernels_in_use() -> str:
    """Tell which of streambn's kernels run, and with which instructions."""
    return kernels.describe()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _caches() -> dict[str, str]:
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")
    read = [
        {name: (c / name).read_text().strip() for name in ("level", "type", "size")} for c in caches
    ]
    return {f"L{c['level']} {c['type'].lower()}": c["size"] for c in sorted(read, key=str)}
