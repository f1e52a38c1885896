"""The whole way, on a real brain: prepare, train, evaluate, report. About 5 minutes on 2 CPU cores.

  equipoise demo --workdir=runs/demo

The MNI152 template becomes 2,000 synthetic subjects. Half carry a "disease" (a deformed right insula); 70 % of those,
and 30 % of the healthy, carry a harmless "bias" (a deformed right putamen beside it). A 3D CNN learns the disease.
Does it lean on the bias? The report says how much, for whom, and how surely. Every stage can be repeated on its own;
finished stages are not done again.
"""

import os
import pathlib
import shlex
import subprocess
import sys
import time

from absl import flags

from launch import program

_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Folder for the run and its report.")

COHORT = "simba/near_4mm"


def stages(workdir: str) -> list[tuple[str, list[str]]]:
    """(what it does and how long it takes, command) of every stage."""
    return [
        ("warp the real MNI152 brain into 2,000 subjects with a near bias: about 70 s",
         ["prepare", f"--cohort={COHORT}"]),
        ("render the test subjects again with the bias flipped: about 25 s",
         ["prepare", f"--cohort={COHORT}_counterfactual"]),
        ("train a 3D CNN to see the disease: about 3 minutes",
         ["train", "--config=simba:near", f"--workdir={workdir}"]),
        ("score every test subject, and map where the model looks: about 25 s",
         ["evaluate", f"--workdir={workdir}", f"--cohort={COHORT}", "--split=test", "--saliency"]),
        ("score the same subjects with the bias flipped: about 10 s",
         ["evaluate", f"--workdir={workdir}", f"--cohort={COHORT}_counterfactual", "--split=test"]),
        ("write the report: about 10 s",
         ["report", f"--workdir={workdir}", f"--cohort={COHORT}", "--split=test"]),
    ]  # fmt: skip


def main() -> int:
    """Runs the stages in order; stops at the first that fails, with its exit code."""
    workdir = str(pathlib.Path(_WORKDIR.value).expanduser())
    data_dir = f"--data_dir={program.data_dir()}"
    began = time.perf_counter()
    todo = stages(workdir)
    # Large pages halve the cost of fresh memory, of which a training step on a CPU takes much.
    environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} | os.environ
    for number, (text, command) in enumerate(todo, start=1):
        print(f"\n[{number}/{len(todo)}] {text}\n  $ equipoise {shlex.join(command)}", flush=True)
        start = time.perf_counter()
        code = subprocess.run(
            [sys.executable, "-m", "launch", *command, data_dir], env=environment, check=False
        ).returncode
        if code:
            print(
                f"stage {number} stopped with exit code {code}; the same command goes on from here",
                file=sys.stderr,
            )
            return code
        print(f"  done in {time.perf_counter() - start:.0f} s", flush=True)
    report = pathlib.Path(workdir).absolute() / "report" / "report.html"
    print(f"\nthe report is at {report}  ({time.perf_counter() - began:.0f} s in all)")
    return 0


if __name__ == "__main__":
    program.run(main)
