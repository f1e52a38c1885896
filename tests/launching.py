"""Running the real programs in processes of their own, and reading what they left."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
RUNS = ROOT / "tests" / "tiny_runs.py"


def environment(devices: int = 1) -> dict[str, str]:
    """This process's environment with ``devices`` fake CPU devices."""
    return os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "default",
    }


def equipoise(*words: str, devices: int = 1, timeout: float = 300) -> subprocess.CompletedProcess:
    """Runs ``equipoise WORDS`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "equipoise.launch", *map(str, words)],
        env=environment(devices),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@contextlib.contextmanager
def free_address() -> Iterator[str]:
    """``localhost:PORT`` of a port that is free; leave the context just before it is used."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        yield f"localhost:{free.getsockname()[1]}"


def together(*words: str, processes: int, devices: int = 1) -> list[subprocess.CompletedProcess]:
    """Runs ``equipoise WORDS`` in processes that compute together; fails the test with their words if one fails."""
    each = [words]
    if processes > 1:
        with free_address() as address:
            shared = (*words, f"--coordinator={address}", f"--num_processes={processes}")
        each = [(*shared, f"--process_id={i}") for i in range(processes)]
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        done = list(pool.map(lambda mine: equipoise(*mine, devices=devices), each))
    for process in done:
        assert process.returncode == 0, process.stderr + process.stdout
    return done


def train(
    workdir: pathlib.Path,
    data_dir: pathlib.Path,
    *more: str,
    run: str = "float32",
    devices: int = 1,
    processes: int = 1,
) -> list[subprocess.CompletedProcess]:
    """Trains a tiny run in one or several processes; fails the test if it fails."""
    return together(*train_words(workdir, data_dir, *more, run=run), processes=processes, devices=devices)


def train_words(workdir: pathlib.Path, data_dir: pathlib.Path, *more: str, run: str = "float32") -> list[str]:
    """The command line of a tiny run."""
    return ["train", f"--config={RUNS}:{run}", f"--workdir={workdir}", f"--data_dir={data_dir}", *more]


def start(*words: str) -> subprocess.Popen:
    """Starts ``equipoise WORDS`` and does not wait."""
    return subprocess.Popen(
        [sys.executable, "-m", "equipoise.launch", *map(str, words)],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(workdir: pathlib.Path, seen: str, run: subprocess.Popen) -> None:
    """Returns when the glob ``seen`` matches under ``workdir``."""
    end = time.monotonic() + 120
    while not any(workdir.glob(seen)):
        assert run.poll() is None, f"the run ended with {run.returncode} before {seen} appeared"
        assert time.monotonic() < end, f"{seen} did not appear in 120 s"
        time.sleep(0.005)


def train_until(
    workdir: pathlib.Path, data_dir: pathlib.Path, seen: str, send: signal.Signals, *more: str
) -> int:
    """Trains until the glob ``seen`` matches under ``workdir``, sends a signal, returns the exit code."""
    run = start(*train_words(workdir, data_dir, *more))
    wait_for(workdir, seen, run)
    run.send_signal(send)
    return run.wait(timeout=120)


def parameters(
    workdir: pathlib.Path, step: int, out: pathlib.Path, data_dir: pathlib.Path
) -> dict[str, np.ndarray]:
    """Every array of a checkpoint's state, restored by a process that may use 64 bits."""
    code = (
        "import sys, pathlib, jax, numpy as np\n"
        "from equipoise.engine import config, data\n"
        "from equipoise.engine.training import choosing\n"
        "from equipoise.engine.training.machine import Machine\n"
        "from equipoise.tasks import make_task\n"
        "workdir, data_dir, step, out = sys.argv[1:]\n"
        "run = config.load(pathlib.Path(workdir))\n"
        "split = data.open_split(run.data.cohort, 'train', pathlib.Path(data_dir))\n"
        "machine = Machine(run, make_task(run, split), split)\n"
        "state = choosing.restore(machine, pathlib.Path(workdir), int(step))\n"
        "leaves = jax.tree_util.tree_leaves_with_path(state)\n"
        "np.savez(out, **{jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves})\n"
    )
    words = [sys.executable, "-c", code, str(workdir), str(data_dir), str(step), str(out)]
    subprocess.run(words, env=environment(), cwd=ROOT, check=True)
    with np.load(out) as arrays:
        return dict(arrays)


def rows(workdir: pathlib.Path) -> list[dict]:
    """``metrics.jsonl``."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
