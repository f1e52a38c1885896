"""Ask what the layers of a model know: linear probes of labels and attributes in the features of every block.

  equipoise probe --workdir=runs/near --labels=disease,bias
  equipoise probe --workdir=runs/near --labels=disease,bias --cohort=simba/far_4mm --split=test --step=last
  equipoise probe --workdir=runs/near --labels=race --blocks=block4,pooled --control=100

For each block, the activations of the split are written to disk (they are not held in memory) and reduced to the principal
components that hold 99 % of their variance. A logistic regression on these components then predicts each label; it is
cross-validated by patient. A control task, with labels shuffled among whole patients, says what a probe learns by chance. The
in-sample accuracy, which published studies report, stands beside it. Components are also probed one by one. Along the
component that predicts the first label best, the report draws where the groups lie: a group that is moved towards the other
side of the boundary is what a shortcut looks like.

Name first the label that the model was trained for, then what it might have learned beside it. Images whose label is unknown
are left out of the probe of that label. Writes WORKDIR/probes/COHORT/SPLIT/STEP.json, .csv and .npz, which
`equipoise report` draws. A population is probed member by member. A probe says what the features hold, not what the model
uses: compare it with the gaps.
"""

import pathlib

from absl import flags

from equipoise.launch import program

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_LABELS = flags.DEFINE_list(
    "labels",
    [],
    "Labels and attributes to probe. Default: the label of the run and every attribute with levels.",
)
_COHORT = flags.DEFINE_string(
    "cohort", None, "The prepared cohort to probe on. Default: the cohort that the run was trained on."
)
_SPLIT = flags.DEFINE_string("split", "test", "The split of that cohort to probe on.")
_STEP = flags.DEFINE_string(
    "step", "best", "The checkpoint: best (by the validation metric of the run), last, all, or a number."
)
_BLOCKS = flags.DEFINE_list(
    "blocks", [], "Blocks of the network to probe, such as block3,pooled. Default: all."
)
_FOLDS = flags.DEFINE_integer("folds", 5, "Folds of the cross-validation.", lower_bound=2)
_CONTROL = flags.DEFINE_integer("control", 20, "Repeats of the control task. 0: no control.", lower_bound=0)
_SHARE = flags.DEFINE_float(
    "share", 0.99, "The share of the variance that the components keep.", lower_bound=0.01, upper_bound=1.0
)
_SEED = flags.DEFINE_integer("seed", 0, "The seed of folds and shuffles.")
_KEEP = flags.DEFINE_bool("keep_features", False, "Keep the activations, in WORKDIR/features.")


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
            line = "  ".join(f"{p.label} {p.accuracy.value:.3f} (chance {p.chance:.3f})" for p in block)
            program.print_above(bars, f"  {block[0].block}: {line}")
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
