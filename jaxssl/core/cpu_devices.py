"""Threads for simulated CPU devices.

XLA runs the devices of a program on one pool with as many threads as there are cores or devices,
whichever are more, and hands the next program to the devices on the same pool. A device holds its
thread until all the others come to its collective. Where programs are handed over faster than they
run, threads that wait to hand one over leave too few to run the one before: it never ends, and XLA
ends the process after a while. With two threads for each device there are enough for both.
"""

import os
import re

POOL = "PJRT_NPROC"
"""Read by XLA when the CPU's devices are first asked for: the threads of its pools."""
_FLAG = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def make_room() -> None:
    """Sets `PJRT_NPROC`, where there are several simulated devices and nobody has set it. To be
    called before the first look at JAX's devices."""
    count = simulated()
    if count > 1 and not {POOL, "NPROC"} & {*os.environ}:
        os.environ[POOL] = str(max(os.cpu_count() or 1, 2 * count))


def simulated() -> int:
    """The number of CPU devices that JAX will make."""
    given = os.environ.get("JAX_NUM_CPU_DEVICES", "")
    if given.isdecimal():
        return int(given)
    found = _FLAG.findall(os.environ.get("XLA_FLAGS", ""))
    return int(found[-1]) if found else 1
