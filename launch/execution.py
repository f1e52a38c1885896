"""Carries out a plan: one command after another, in several processes of this machine, or as jobs of Slurm.

FOLDER/logs records which stages are done, so that the same command goes on where it stopped. A stage is done again when its
command has changed, or the command of an earlier stage of its job.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from equipoise.engine import files
from equipoise.engine.errors import UserError
from equipoise.launch import program
from equipoise.tasks.kit.plan import Job, Plan

PREEMPTED = 75
_POLL_SECONDS = 0.5
# A training step on a CPU takes much fresh memory; large pages halve what that costs.
_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def define_flags() -> None:
    """Defines the flags that say where a plan is carried out: ``--executor``, ``--jobs``, ``--gpus_per_job``, ``--slurm``, ``--dry_run``."""
    flags.DEFINE_enum(
        "executor", "here", ["here", "local", "slurm"],
        "here: one job after another, with its output on this console; local: several jobs at once on this machine (--jobs); "
        "slurm: a job array.",
    )  # fmt: skip
    flags.DEFINE_integer(
        "jobs", 2, "With local or slurm: the number of jobs that run at once.", lower_bound=1
    )
    flags.DEFINE_integer(
        "gpus_per_job", 0, "GPUs of each job. With local, no two jobs share one.", lower_bound=0
    )
    flags.DEFINE_list(
        "slurm",
        [],
        "With slurm: settings of submitit, such as timeout_min=240,slurm_partition=gpu,mem_gb=64,cpus_per_task=8.",
    )
    flags.DEFINE_bool("dry_run", False, "Print the commands and stop.")


def _signatures(job: Job) -> list[str]:
    """A digest for each stage, of its command and of all commands before it."""
    digest, signatures = hashlib.sha256(), []
    for stage in job.stages:
        digest.update(json.dumps(stage.command).encode())
        signatures.append(digest.hexdigest()[:16])
    return signatures


@dataclasses.dataclass
class Work:
    """A job at work; :mod:`submitit` calls it in the job's process.

    Attributes:
      job: what to do.
      logs: folder of the job's log and record.
      data_dir: folder of prepared cohorts.
      in_sight: whether the commands write to this console; otherwise they write to the log.
      environment: environment variables that it sets; a variable with the value None is removed.
    """

    job: Job
    logs: pathlib.Path
    data_dir: pathlib.Path
    in_sight: bool
    environment: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    _child: Any = None

    @property
    def record(self) -> pathlib.Path:
        """The file that says which stages are done."""
        return self.logs / f"{self.job.name}.json"

    @property
    def log(self) -> pathlib.Path:
        """The file with all output of the commands."""
        return self.logs / f"{self.job.name}.log"

    def todo(self) -> list[int]:
        """Numbers of the stages that are not done, from 0."""
        done = json.loads(self.record.read_text()) if self.record.exists() else []
        signatures = _signatures(self.job)
        agree = 0
        while agree < min(len(done), len(signatures)) and done[agree] == signatures[agree]:
            agree += 1
        stages = self.job.stages
        repeated = next((i for i, stage in enumerate(stages) if stage.is_repeated), len(stages))
        return list(range(min(agree, repeated), len(stages)))

    def __call__(self) -> int:
        """Does the stages that are not done; returns the exit code of the first that fails, or 0."""
        self.logs.mkdir(parents=True, exist_ok=True)
        signatures, number = _signatures(self.job), len(self.job.stages)
        for place in self.todo():
            stage = self.job.stages[place]
            words = [sys.executable, "-m", "equipoise.launch", *stage.command, f"--data_dir={self.data_dir}"]
            head = f"\n[{self.job.name} {place + 1}/{number}] {stage.title}\n  $ equipoise {shlex.join(stage.command)}"
            start = time.perf_counter()
            given = _ENVIRONMENT | os.environ | self.environment
            environment = {name: value for name, value in given.items() if value is not None}
            if self.in_sight:
                print(head, flush=True)
                code = subprocess.run(words, env=environment, check=False).returncode
            else:
                with self.log.open("a") as log:
                    print(head, file=log, flush=True)
                    self._child = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
                    signal.signal(signal.SIGTERM, lambda *_: self._child.terminate())
                    code = self._child.wait()
            if code:
                return code
            files.write_text(self.record, json.dumps(signatures[: place + 1]))
            if self.in_sight:
                print(f"  done in {time.perf_counter() - start:.0f} s", flush=True)
        return 0

    def checkpoint(self) -> Any:
        """Ends the command so that it saves its state, and queues the job again; called in a job that Slurm is about to end."""
        import submitit

        if self._child is not None:
            self._child.terminate()
            self._child.wait()
        return submitit.helpers.DelayedSubmission(dataclasses.replace(self, _child=None))


def _make_executor(logs: pathlib.Path) -> Any:
    """The executor of submitit that the flags describe."""
    try:
        import submitit
    except ModuleNotFoundError:
        raise UserError(
            f"--executor={flags.FLAGS.executor} needs submitit: pip install 'equipoise[slurm]'"
        ) from None
    kind, values = flags.FLAGS.executor, flags.FLAGS
    if kind == "slurm" and not submitit.SlurmExecutor.affinity() > 0:
        raise UserError(
            "--executor=slurm: there is no srun here; start the command on a login node of the cluster"
        )
    executor = submitit.AutoExecutor(folder=logs / "jobs", cluster=kind)
    settings: dict[str, Any] = {"name": "equipoise"}
    if kind == "slurm":
        settings |= {"slurm_array_parallelism": values.jobs} | dict(
            program.setting(text, "--slurm") for text in values.slurm
        )
        if values.gpus_per_job:
            settings["gpus_per_node"] = values.gpus_per_job
    else:
        settings["timeout_min"] = 60 * 24 * 365  # a local job ends when it is done
    try:
        executor.update_parameters(**settings)
    except (NameError, TypeError, ValueError) as error:
        raise UserError(f"--slurm={','.join(flags.FLAGS.slurm)}: {' '.join(str(error).split())}") from None
    return executor


def _slots(jobs: int) -> list[dict[str, str | None]]:
    """The environment of each place where a local job can run: with GPUs of its own, or with those that this process sees."""
    gpus, given = flags.FLAGS.gpus_per_job, os.environ.get("CUDA_VISIBLE_DEVICES")
    if not gpus:
        return [{"CUDA_VISIBLE_DEVICES": given} for _ in range(jobs)]  # submitit would hide all
    names = given.split(",") if given else [str(i) for i in range(jobs * gpus)]
    if len(names) < jobs * gpus:
        raise UserError(
            f"--jobs={jobs} with --gpus_per_job={gpus} needs {jobs * gpus} GPUs; CUDA_VISIBLE_DEVICES={given} names {len(names)}"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(names[i * gpus : (i + 1) * gpus])} for i in range(jobs)]


def _tell(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


def _run_jobs(works: Sequence[Work], logs: pathlib.Path, ended: Callable[[Work, int], None]) -> None:
    """Runs all jobs through submitit, at most ``--jobs`` at once."""
    executor = _make_executor(logs)
    if flags.FLAGS.executor == "slurm":
        with executor.batch():
            handles = [executor.submit(work) for work in works]
        waiting = dict(zip(handles, works, strict=True))
        _tell(f"  submitted {len(handles)} jobs; logs in {logs}")
        slots, queue, running = [], [], waiting
    else:
        slots, queue, running = _slots(flags.FLAGS.jobs), list(works), {}
    place_of: dict[Any, dict[str, str | None]] = {}
    try:
        while queue or running:
            while queue and slots:
                slot, work = slots.pop(0), queue.pop(0)
                handle = executor.submit(dataclasses.replace(work, environment={**work.environment, **slot}))
                place_of[handle], running[handle] = slot, work
            for handle in [handle for handle in running if handle.done()]:
                work = running.pop(handle)
                if handle in place_of:
                    slots.append(place_of.pop(handle))
                try:
                    code = handle.result()
                except Exception as error:  # of the job's process: killed, out of memory, out of time
                    with work.log.open("a") as log:
                        print(f"the job ended without a result: {error}", file=log)
                    code = 1
                ended(work, code)
            time.sleep(_POLL_SECONDS)
    except BaseException:
        if flags.FLAGS.executor == "local":
            for handle in running:
                handle.cancel()
        raise


def carry_out(plan: Plan, folder: pathlib.Path) -> int:
    """Does every stage of a plan that is not done.

    Args:
      plan: phases of jobs.
      folder: of the work. Records and logs go to ``folder/logs``.

    Returns:
      0 when all is done; 75 when jobs were stopped on request and saved; otherwise the exit code of a job that failed. A line is
      printed for each job that did not end well.

    Raises:
      UserError: when two jobs have the same name, or the executor is not available.
    """
    logs = folder / "logs"
    names = [job.name for phase in plan for job in phase]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"two parts of the plan share a name: {', '.join(sorted(twice))}")
    if flags.FLAGS.dry_run:
        for phase in plan:
            for stage in (stage for job in phase for stage in job.stages):
                print(f"equipoise {shlex.join(stage.command)}")
        return 0
    here = flags.FLAGS.executor == "here"
    # Most runs of a plan compile the same programs, and share them. The nodes of a cluster may differ, and share none.
    cache, shared = "JAX_COMPILATION_CACHE_DIR", {}
    if flags.FLAGS.executor != "slurm" and cache not in os.environ:
        shared = {cache: str(logs / "compiled")}
    failed: list[tuple[Work, int]] = []
    for phase in plan:
        works = [Work(job, logs, program.data_dir().absolute(), here, shared) for job in phase]
        waiting = [work for work in works if work.todo()]
        if len(waiting) < len(works):
            _tell(
                f"{len(works) - len(waiting)} of {len(works)} done before: {_some(w.job.name for w in works if w not in waiting)}"
            )
        count, began = 0, time.perf_counter()

        def ended(work: Work, code: int, total: int = len(waiting), began: float = began) -> None:
            nonlocal count
            count += 1
            if code:
                failed.append((work, code))
            left = (time.perf_counter() - began) / count * (total - count)
            more = f", about {left / 60:.0f} min to go" if count < total else ""
            verdict = "done" if not code else "preempted" if code == PREEMPTED else f"failed ({code})"
            if total > 1 or not here:
                _tell(f"== {count}/{total} {work.job.name}: {verdict}{more}")

        if here:
            for work in waiting:
                ended(work, work())
        else:
            _run_jobs(waiting, logs, ended)
        if failed:
            break
    for work, code in failed:
        where = "" if here else f"; see {work.log}"
        print(
            f"{work.job.name} stopped with exit code {code}{where}; the same command goes on from there",
            file=sys.stderr,
        )
    codes = {code for _, code in failed}
    return PREEMPTED if codes == {PREEMPTED} else min(codes - {PREEMPTED}, default=0)


def _some(names: Iterable[str], most: int = 6) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
