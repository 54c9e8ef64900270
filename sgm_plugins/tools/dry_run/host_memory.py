"""How much memory this process uses at most, as the system counts it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


class HostMemory:
    """The most memory that this process has used since this was made, above what it used then.

    Linux can start the count anew; elsewhere the peak of the whole process is compared with its earlier peak.
    """

    def __init__(self) -> None:
        with suppress(OSError):  # not Linux, or not allowed
            Path("/proc/self/clear_refs").write_text("5")
        self.before = resident_peak()

    def peak(self) -> int | None:
        """Bytes; none where the system does not say."""
        now = resident_peak()
        return None if now is None or self.before is None else now - self.before


def resident_peak() -> int | None:
    """The highest resident memory of this process in bytes, None on Windows."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
