"""equipoise: fairness experiments in medical imaging.

  equipoise prepare    package a cohort for training
  equipoise train      train a model
  equipoise evaluate   score cohorts with a checkpoint: one row for every image
  equipoise report     turn predictions into a fairness report
  equipoise audit      the same report for any CSV or Parquet table, from any model
  equipoise probe      ask what the layers of a model know of labels and attributes
  equipoise sweep      train and score a grid of runs, here or on Slurm
  equipoise study      run a published study from one command
  equipoise demo       prepare, train, evaluate and report on a real brain, in about 5 minutes on a laptop

`equipoise COMMAND --help` explains each command with examples. A first session:

  equipoise prepare  --cohort=simba/near_4mm
  equipoise train    --config=simba:near --workdir=runs/near
  equipoise evaluate --workdir=runs/near --cohort=simba/near_4mm --split=test
  equipoise report   --workdir=runs/near
"""

import importlib
import pathlib
import sys

from equipoise.engine.errors import did_you_mean

COMMANDS = ("prepare", "train", "evaluate", "report", "audit", "probe", "sweep", "study", "demo")


def main() -> None:
    """Runs ``launch.COMMAND`` with the rest of the command line."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(__doc__.strip())
        sys.exit(0 if words else 2)
    if words[0] not in COMMANDS:
        print(
            f"error: no command {words[0]!r}.{did_you_mean(words[0], COMMANDS)} See `equipoise --help`.",
            file=sys.stderr,
        )
        sys.exit(2)
    # Flags may name modules of the user's own in the current folder. It stands last, so that it hides none of ours.
    sys.path.append(str(pathlib.Path.cwd()))
    from equipoise.launch import program

    command = importlib.import_module(f"equipoise.launch.{words[0]}")
    program.run(command.main, [f"equipoise {words[0]}", *words[1:]])


if __name__ == "__main__":
    main()
