"""What a process holds, by /proc."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Held:
    """Open descriptors, threads, and resident memory in bytes."""

    descriptors: int
    threads: int
    rss: int

    @classmethod
    def by(cls, pid: int) -> Held:
        descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        kilobytes = int(status["VmRSS"].split()[0])
        return cls(descriptors, int(status["Threads"]), kilobytes * 1024)
