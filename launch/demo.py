"""The whole way on a real brain: prepare, train, evaluate, report. It takes about 5 minutes on 2 CPU cores.

  equipoise demo --workdir=runs/demo

The MNI152 template becomes 2,000 synthetic subjects. Half of them carry a "disease": a deformed right insula. 70 % of the
diseased, and 30 % of the healthy, also carry a harmless "bias": a deformed right putamen, which lies beside the insula. A 3D
CNN learns the disease. Does it lean on the bias? The report says how much, for whom, and how surely. Every stage is a command
that you can repeat by hand. Stages that are finished are not done again.
"""

import pathlib
import sys
import time

from absl import flags

from equipoise.launch import execution, program
from equipoise.tasks.kit.plan import Job, Stage

_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "The folder of the run and of its report.")

COHORT = "simba/near_4mm"


def job(workdir: str) -> Job:
    """The stages of the demo. All are given each time: every command finds out by itself what it has done before."""
    return Job("demo", tuple(Stage(title, tuple(command), is_repeated=True) for title, command in [
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
    ]))  # fmt: skip


def main() -> int:
    """Runs the stages in order and stops at the first that fails; returns its exit code."""
    workdir = pathlib.Path(_WORKDIR.value).expanduser()
    began = time.perf_counter()
    code = execution.Work(job(str(workdir)), workdir / "logs", program.data_dir(), in_sight=True)()
    if code:
        print(f"stopped with exit code {code}; the same command goes on from here", file=sys.stderr)
        return code
    report = workdir.absolute() / "report" / "report.html"
    print(f"\nthe report is at {report}  ({time.perf_counter() - began:.0f} s in all)")
    return 0


if __name__ == "__main__":
    program.run(main)
