"""What benchmark programs share: timing that interleaves the contestants, the machine, and the closing line."""

import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Mapping

import jax


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


def load() -> str:
    """Load averages over 1 and 5 minutes: above zero before the start, the machine is not ours alone."""
    one, five, _ = os.getloadavg()
    return f"load {one:.2f} (1 min) {five:.2f} (5 min)"


def fastest(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least seconds of each call over interleaved rounds, after one round of warming up."""
    best = dict.fromkeys(contestants, float("inf"))
    for count in range(rounds + 1):
        for name, call in contestants.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if count:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def report(benchmark: str, ours: float, peer: float, unit: str) -> None:
    """Prints the closing JSON line; ``ratio`` is peer / ours, above 1 where ours takes less."""
    result = {
        "benchmark": benchmark,
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(peer / ours, 2),
    }
    print(json.dumps(result | {"unit": unit, "machine": machine()}))
