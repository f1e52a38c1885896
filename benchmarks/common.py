"""What benchmark programs share: timing that interleaves the contestants, the machine, and the closing line."""

import importlib
import json
import os
import pathlib
import platform
import random
import sys
import time
import types
from collections.abc import Callable, Mapping

import jax

# What a contestant may be charged for: the time that passes, or that of all its threads on a processor.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def machine() -> str:
    """Processor, cores and JAX's device kind."""
    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, jax {jax.__version__}"


def require(module: str) -> types.ModuleType:
    """A peer, such as torch or SimpleITK; where it is missing, ends the program with a line that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        sys.exit(
            f"this benchmark runs {module} beside ours, and it is not installed: pip install 'equipoise[bench]'"
        )


def restart_on_cpu() -> None:
    """Starts the program again with JAX on the CPU and large buffers in huge pages, for every side alike.

    Every large intermediate of a step is fresh memory, and huge pages save most of what mapping it costs.
    """
    wanted = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "JAX_PLATFORMS": "cpu"}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)


def load() -> str:
    """Load averages over 1 and 5 minutes: above zero before the start, the machine is not ours alone."""
    one, five, _ = os.getloadavg()
    return f"load {one:.2f} (1 min) {five:.2f} (5 min)"


def fastest(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Least seconds of each call over rounds, after one round of warming up.

    Every round takes the contestants in another order: a call pays for the memory and caches that the one before left.
    """
    best, order = dict.fromkeys(contestants, float("inf")), random.Random(0)
    for count in range(rounds + 1):
        for name in order.sample(list(contestants), len(contestants)):
            start = clock()
            jax.block_until_ready(contestants[name]())
            if count:
                best[name] = min(best[name], clock() - start)
    return best


def report(benchmark: str, ours: float, peer: float, unit: str) -> None:
    """Prints the closing JSON line; ``ratio`` is ours / peer, below 1 where ours takes less."""
    result = {
        "benchmark": benchmark,
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(ours / peer, 3),
    }
    print(json.dumps(result | {"unit": unit, "machine": machine()}))
