"""Which process has a number: numbers are used again, the time of the start tells two processes apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def start_of(pid: int) -> str | None:
    """When a process of this machine started, as a text that is the same each time; none if there is no such process.

    A process that has ended, of which only the exit code is left (a zombie), is none.
    """
    platform: str = sys.platform  # a type checker would see one of the three ways alone
    if platform == "linux":
        return _start_on_linux(pid)
    if platform == "win32":
        return _start_on_windows(pid)
    found = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = found.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


def _start_on_linux(pid: int) -> str | None:
    """Ticks since the boot, and which boot."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name of the program, in parentheses, may hold anything
    return None if fields[0] in "ZX" else f"{boot} {fields[19]}"


def _start_on_windows(pid: int) -> str | None:
    """The time of creation, in units of 100 ns."""
    import ctypes
    from ctypes import wintypes

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
    kernel.OpenProcess.restype = wintypes.HANDLE
    kernel.GetProcessTimes.argtypes = [wintypes.HANDLE, *[ctypes.POINTER(wintypes.FILETIME)] * 4]
    kernel.CloseHandle.argtypes = [wintypes.HANDLE]
    limited_information = 0x1000
    handle = kernel.OpenProcess(limited_information, False, pid)
    if not handle:
        return None
    try:
        created, exited, system, user = (wintypes.FILETIME() for _ in range(4))
        if not kernel.GetProcessTimes(handle, *map(ctypes.byref, (created, exited, system, user))):
            return None
        if exited.dwLowDateTime or exited.dwHighDateTime:
            return None
        return str(created.dwHighDateTime << 32 | created.dwLowDateTime)
    finally:
        kernel.CloseHandle(handle)
