"""The machine of a server that runs on ours: what the kernel may do to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Host:
    """Facts of the kernel and of the server's process; None where they cannot be read."""

    huge_pages: str = ""
    """`always`, `madvise` or `never`, for this process."""
    overcommit: int | None = None
    backlog: int | None = None
    """net.core.somaxconn."""
    open_files: int | None = None
    """How many the process may have."""
    swapped: int = 0
    """Bytes of the process that are on disk."""


def read_host(pid: int, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Host | None:
    """Look at a process of this machine; None where there is no such server with this id."""
    name = _text(proc / str(pid) / "comm").strip()
    if not any(word in name for word in ("redis", "valkey")):
        return None  # another machine's id, or that of a container
    status = _text(proc / str(pid) / "status")
    chosen = re.search(r"\[(\w+)]", _text(sys / "kernel/mm/transparent_hugepage/enabled"))
    huge = chosen[1] if chosen else ""
    if re.search(r"^THP_enabled:\s+0$", status, re.MULTILINE):
        huge = "never"  # the server switched them off for itself (disable-thp)
    swapped = re.search(r"^VmSwap:\s+(\d+) kB$", status, re.MULTILINE)
    files = re.search(r"^Max open files\s+(\d+)", _text(proc / str(pid) / "limits"), re.MULTILINE)
    return Host(
        huge_pages=huge,
        overcommit=_number(proc / "sys/vm/overcommit_memory"),
        backlog=_number(proc / "sys/net/core/somaxconn"),
        open_files=int(files[1]) if files else None,
        swapped=int(swapped[1]) * 1024 if swapped else 0,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None
