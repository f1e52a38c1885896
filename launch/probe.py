"""What do a model's layers know? Linear probes of labels and attributes in the features of every block.

  equipoise probe --workdir=runs/near --labels=disease,bias
  equipoise probe --workdir=runs/near --labels=disease,bias --cohort=simba/far_4mm --split=test --step=last
  equipoise probe --workdir=runs/near --labels=race --blocks=block4,pooled --control=100

For each block: activations of the split (streamed to disk, not held in memory), principal components that hold 99 % of
their variance, and a logistic regression of each label on them, cross-validated by patient. A control task with the labels
of whole patients shuffled says what a probe learns by chance. The in-sample accuracy, which published studies report, stands
beside. Components are also probed one by one; along the one that tells the first label best, the report draws where the
groups lie: a group moved towards the other side of the boundary is what a shortcut looks like.

The first label should be what the model was trained for, the others what it might have learned beside it. An image whose
label is unknown is left out of that label's probe. Writes WORKDIR/probes/COHORT/SPLIT/STEP.json, .csv and .npz;
`equipoise report` draws them; a population is probed member by member. Being told by a probe is not being used by the model: compare with the gaps.
"""

import pathlib

from absl import flags

from equipoise.launch import program

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_LABELS = flags.DEFINE_list(
    "labels", [], "Labels and attributes to probe. Default: the run's label and every attribute with levels."
)
_COHORT = flags.DEFINE_string(
    "cohort", None, "Prepared cohort to probe on. Default: the one the run was trained on."
)
_SPLIT = flags.DEFINE_string("split", "test", "Split of that cohort.")
_STEP = flags.DEFINE_string("step", "best", "best (by the run's validation metric), last, all, or a number.")
_BLOCKS = flags.DEFINE_list("blocks", [], "Blocks of the network, such as block3,pooled. Default: all.")
_FOLDS = flags.DEFINE_integer("folds", 5, "Of the cross-validation.", lower_bound=2)
_CONTROL = flags.DEFINE_integer("control", 20, "Repeats of the control task.", lower_bound=0)
_SHARE = flags.DEFINE_float(
    "share", 0.99, "Of the variance that the components keep.", lower_bound=0.01, upper_bound=1.0
)
_SEED = flags.DEFINE_integer("seed", 0, "Of folds and shuffles.")
_KEEP = flags.DEFINE_bool("keep_features", False, "Keep the activations in WORKDIR/features.")


def main() -> None:
    """Probes."""
    from equipoise.engine.errors import UserError

    if not _WORKDIR.value:
        raise UserError("no --workdir: name the folder of a run")

    from equipoise.engine.explain import probes
    from equipoise.engine.explain.probes import Probed
    from equipoise.tasks import make_task

    bars = program.make_bars()

    def probed(result: Probed) -> None:
        program.print_above(
            bars, f"step {result.step}  {result.num_images} images of {result.cohort} {result.split}"
        )
        for block in result.probes:
            told = "  ".join(f"{p.label} {p.accuracy.value:.3f} (chance {p.chance:.3f})" for p in block)
            program.print_above(bars, f"  {block[0].block}: {told}")
        program.print_above(bars, f"  {result.path}")

    with bars:
        bar = bars.add_task("", total=None)
        results = probes.probe_run(
            pathlib.Path(_WORKDIR.value).expanduser(), make_task, program.data_dir(),
            labels=_LABELS.value, cohort=_COHORT.value, split=_SPLIT.value, step=_STEP.value, blocks=_BLOCKS.value,
            num_folds=_FOLDS.value, control=_CONTROL.value, share=_SHARE.value, seed=_SEED.value, keep_features=_KEEP.value,
            progress=lambda what, done, total: bars.update(bar, description=what, completed=done, total=total), probed=probed,
        )  # fmt: skip
    first = results[0]
    print(f"next: equipoise report --workdir={first.workdir} --cohort={first.cohort} --split={first.split}")


if __name__ == "__main__":
    program.run(main)
