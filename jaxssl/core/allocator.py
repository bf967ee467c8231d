"""The C library's allocator on a CPU: a step's large temporaries are not given back and faulted in
again.

XLA takes the temporaries of a step from malloc, which gets what is large from the kernel, page by
page, and gives it back when the step ends: up to a third of a small step. The settings that change
this are read when a process starts, so the command starts itself again with them.
"""

import importlib.util
import os
import sys

TURN_OFF = "JAXSSL_MALLOC"
"""`JAXSSL_MALLOC=default` leaves the allocator alone."""

HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""2 MiB faulted in at once instead of 4 KiB, where the kernel allows it: no more memory."""
KEPT = 64 * 2**20
"""Blocks up to so many bytes come from the heap, and go back there. It is the most that a heap of
a thread can hold: what is larger is given back to the kernel as before."""
KEPT_AT_MOST = 2 * KEPT
"""Free bytes at the end of a heap that are kept: what all of this can cost in memory."""

SETTINGS = (
    f"{HUGE_PAGES}:glibc.malloc.mmap_threshold={KEPT}:glibc.malloc.trim_threshold={KEPT_AT_MOST}"
)
TUNABLES = "GLIBC_TUNABLES"
SUMMARY = f"memory: huge pages, {KEPT_AT_MOST // 2**20} MiB kept free ({TURN_OFF}=default: neither)"
_AGAIN = "_JAXSSL_STARTED_AGAIN"


def start_again() -> None:
    """Replaces this process by the same command under `SETTINGS`; returns where that is no use.

    Process id, working directory, open files and the terminal stay. It is of no use on an
    accelerator, without glibc 2.35 or later, in a process that was started so already, and where
    the user chose the allocator's settings.
    """
    if not _is_wanted():
        return
    given = os.environ.get(TUNABLES)
    os.environ[TUNABLES] = f"{given}:{SETTINGS}" if given else SETTINGS
    os.environ[_AGAIN] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def summary() -> str | None:
    """What to tell of the allocator, or None where it is as the system has it."""
    return SUMMARY if SETTINGS in os.environ.get(TUNABLES, "") else None


def _is_wanted() -> bool:
    chosen = os.environ.get(TURN_OFF) == "default" or "glibc.malloc" in os.environ.get(TUNABLES, "")
    chosen = chosen or any(name.startswith("MALLOC_") for name in os.environ)
    can_start = bool(sys.executable) and sys.argv[0] not in ("", "-")  # not a program on stdin
    return not chosen and _AGAIN not in os.environ and can_start and _has_glibc() and _is_on_cpu()


def _has_glibc() -> bool:
    """Whether the C library is a glibc that knows the settings."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        return name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)
    except (AttributeError, ValueError):  # Windows; macOS, musl
        return False


def _is_on_cpu() -> bool:
    """Whether JAX will take the CPU; told without importing JAX, which takes a second."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
