"""Score cohorts with a checkpoint of a run: one row for every image, and nobody is dropped.

  equipoise evaluate --workdir=runs/near
  equipoise evaluate --workdir=runs/near --cohort=simba/far_4mm --split=test --step=last
  equipoise evaluate --workdir=runs/near --cohort=simba/near_4mm,simba/near_4mm_counterfactual
  equipoise evaluate --workdir=runs/near --step=all --split=validation
  equipoise evaluate --workdir=runs/near --saliency
  equipoise evaluate --workdir=runs/many

Writes WORKDIR/evaluations/COHORT/SPLIT/STEP.parquet. The table holds ids, split, target, score, attributes, the fingerprints
of checkpoint and configuration, and the threshold with the split that it was chosen on (always validation, never the split
that is scored). In a segmentation it holds Dice, surface distances and volume errors of every structure, and
STEP.masks.parquet beside it holds the predicted masks. A population is scored member by member, each in its own folder.

--saliency also writes WORKDIR/saliency/COHORT/STEP.npz: SmoothGrad maps of the logit of the true class, averaged over
correctly classified images of each class and group (for a binary label, true positives and true negatives).

Next comes the report: `equipoise report --workdir=...`.
"""

import pathlib

from absl import flags

from equipoise.launch import program

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_COHORT = flags.DEFINE_list(
    "cohort",
    [],
    "Prepared cohorts to score, separated by commas. Default: the cohort that the run was trained on.",
)
_SPLIT = flags.DEFINE_string("split", "test", "The split of those cohorts to score.")
_STEP = flags.DEFINE_string(
    "step", "best", "The checkpoint: best (by the validation metric of the run), last, all, or a number."
)
program.define_hosts()
_NUM_DEVICES = flags.DEFINE_integer("num_devices", 0, "Devices to use. 0: every device.")
_SALIENCY = flags.DEFINE_bool("saliency", False, "Also write mean SmoothGrad maps by class and group.")
_SALIENCY_GROUP = flags.DEFINE_string(
    "saliency_attribute",
    None,
    "The attribute that forms the groups of the maps. Default: the first one of the cohort.",
)
_SALIENCY_IMAGES = flags.DEFINE_integer(
    "saliency_images", 10, "Images of each class and group in a map.", lower_bound=1
)
_SALIENCY_NOISE = flags.DEFINE_float(
    "saliency_noise", 0.05, "The noise of SmoothGrad, as a fraction of an image's range.", lower_bound=0.0
)


def main() -> None:
    """Evaluates."""
    from equipoise.engine.errors import UserError

    if not _WORKDIR.value:
        raise UserError("no --workdir: name the folder of a run")

    from equipoise.engine import evaluate, hosts
    from equipoise.engine.evaluate import SaliencyMaps, Scored
    from equipoise.tasks import make_task

    program.join_hosts()
    bars = program.make_bars(disable=not hosts.is_main())

    def tell(text: str) -> None:
        if hosts.is_main():
            program.print_above(bars, text)

    def scored(result: Scored) -> None:
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
        where = f"{result.num_images} images of {result.cohort} {result.split}"
        tell(f"step {result.step}  {where}  {metrics}\n  {result.path}")
        if result.maps:
            tell(f"  {result.maps}")

    with bars:
        bar = bars.add_task("", total=None)
        maps = SaliencyMaps(_SALIENCY_GROUP.value, _SALIENCY_IMAGES.value, _SALIENCY_NOISE.value)
        results = evaluate.score_run(
            pathlib.Path(_WORKDIR.value).expanduser(), make_task, program.data_dir(),
            cohorts=_COHORT.value, split=_SPLIT.value, step=_STEP.value, maps=maps if _SALIENCY.value else None,
            num_devices=_NUM_DEVICES.value, scored=scored,
            progress=lambda what, done, total: bars.update(bar, description=f"scoring {what}", completed=done, total=total),
        )  # fmt: skip
    first = results[0]
    tell(f"next: equipoise report --workdir={first.workdir} --cohort={first.cohort} --split={first.split}")


if __name__ == "__main__":
    program.run(main)
