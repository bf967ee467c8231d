"""What CPU devices that send to each other need of XLA, so that they do not wait for ever.

Threads: XLA runs the devices of a program on one pool with as many threads as there are cores or
devices, whichever are more, and hands the next program to the devices on the same pool. A device
holds its thread until all the others come to its collective. Where programs are handed over faster
than they run, threads that wait to hand one over leave too few to run the one before: it never
ends, and XLA ends the process after a while. With two threads for each device there are enough.

Order: what sends has to start in the same order on each device, and XLA starts what is ready. Under
jaxlib 0.10.2's schedule for concurrency a sum over devices that precedes a loop with gathers was
seen to start after it on one of two devices, once in some thousands of steps: both waited.
Under its schedule for memory, in which less is ready at once, it was not seen in 84,000 steps.
"""

import os
import re

POOL = "PJRT_NPROC"
"""Read by XLA when the CPU's devices are first asked for: the threads of its pools."""
ORDER = "--xla_cpu_scheduler_type"
"""Read by XLA with the other flags, before it first compiles."""
LOOKED_AT = (0, 13)
"""The version of JAX before which the flag is known: one that XLA does not know is an error."""
_FLAG = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def make_room() -> None:
    """Sets `PJRT_NPROC` and the schedule, where there are several simulated devices and nobody has
    set them. To be called before the first look at JAX's devices."""
    count = simulated()
    if count == 1:
        return
    if not {POOL, "NPROC"} & {*os.environ}:
        os.environ[POOL] = str(max(os.cpu_count() or 1, 2 * count))
    keep_order()


def keep_order() -> None:
    """Chooses the schedule in `XLA_FLAGS`, unless one is chosen there. For several processes, which
    have one device each, and before the first look at JAX's devices, too."""
    import jax

    flags = os.environ.get("XLA_FLAGS", "")
    if ORDER not in flags and jax.__version_info__ < LOOKED_AT:
        os.environ["XLA_FLAGS"] = f"{flags} {ORDER}=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED".strip()


def simulated() -> int:
    """The number of CPU devices that JAX will make."""
    given = os.environ.get("JAX_NUM_CPU_DEVICES", "")
    if given.isdecimal():
        return int(given)
    found = _FLAG.findall(os.environ.get("XLA_FLAGS", ""))
    return int(found[-1]) if found else 1
