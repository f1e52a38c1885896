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
import shutil

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


def _codes(split, names):
    """Name -> class of each image, -1 where unknown, and the names of the classes."""
    import numpy as np

    from equipoise.engine.errors import UserError, did_you_mean
    from equipoise.engine.vocabulary import UNKNOWN

    kinds = {group: split.vocabulary(group) for group in ("labels", "attributes")}
    known = [k for found in kinds.values() for k, levels in found.items() if levels is not None]
    found = {}
    for name in names:
        if name not in known:
            raise UserError(
                f"cohort {split.cohort!r} has no label or attribute {name!r} with levels.{did_you_mean(name, known)} "
                f"It has: {', '.join(known)}"
            )
        if name in kinds["labels"]:
            found[name] = split.columns[f"label:{name}"].to_numpy(np.int64)
        else:
            levels = [level for level in kinds["attributes"][name] if level != UNKNOWN]
            number = {level: i for i, level in enumerate(levels)}
            found[name] = split.columns[name].map(lambda v, n=number: n.get(v, -1)).to_numpy(np.int64)
        present = np.unique(found[name][found[name] >= 0])
        if len(present) < 2:
            raise UserError(
                f"{name!r} has only one level in {split.cohort} {split.name}: nothing to tell apart"
            )
        found[name] = np.where(found[name] >= 0, np.searchsorted(present, found[name]), -1)
    return found


def main() -> None:
    """Probes."""
    from equipoise.engine import config as run_config
    from equipoise.engine.errors import UserError

    if not _WORKDIR.value:
        raise UserError("no --workdir: name the folder of a run")
    root = pathlib.Path(_WORKDIR.value).expanduser()
    config = run_config.load(root)

    import rich.progress

    from equipoise.engine import data, rundir
    from equipoise.engine.explain import features, probes
    from equipoise.engine.metrics.estimates.intervals import subject_codes
    from equipoise.engine.training import choosing, population
    from equipoise.engine.training.machine import Machine
    from equipoise.tasks import make_task

    training = data.open_split(config.data.cohort, config.data.train_split, program.data_dir())
    split = data.open_split(_COHORT.value or config.data.cohort, _SPLIT.value, program.data_dir())
    task = make_task(config, training)
    folders = population.folders(root, config)
    machine = Machine(population.members(config)[0], task, training)
    attributes = [k for k, levels in split.vocabulary("attributes").items() if levels is not None]
    label = [] if task.target(split) is None else [config.task.label]
    labels = _codes(split, _LABELS.value or [*label, *attributes])
    code = subject_codes(split.columns["subject_id"])[0]
    where = probes.folds(labels, code, _FOLDS.value, _SEED.value)
    settings = {"folds": _FOLDS.value, "control": _CONTROL.value, "share": _SHARE.value, "seed": _SEED.value}
    chosen = [
        (workdir, machine.as_member(run_config.load(workdir)), step)
        for workdir in folders
        for step in choosing.choose_steps(workdir, config, _STEP.value)
    ]
    for workdir, machine, step in chosen:
        state = choosing.restore(machine, workdir, step)
        path = rundir.RunFolder(workdir).probes(split.cohort, split.name, step)
        folder = workdir / "features" / path.relative_to(workdir / "probes").with_suffix("")
        results = []
        with rich.progress.Progress(transient=True) as progress:
            bar = progress.add_task(f"features of {split.cohort} {split.name}", total=len(split))
            update = lambda done, _, bar=bar: progress.update(bar, completed=done)  # noqa: E731
            blocks = features.stream(machine, state, split, folder, _BLOCKS.value, update)
            bar = progress.add_task("probing", total=len(blocks))
            for block, values in blocks.items():
                results.append(
                    probes.probe_block(
                        block, values, labels, code, where, share=_SHARE.value, repeats=_CONTROL.value, seed=_SEED.value
                    )
                )  # fmt: skip
                progress.advance(bar)
        del blocks
        if not _KEEP.value:
            shutil.rmtree(folder)
        probes.write(path, results, labels, settings)
        print(f"step {step}  {len(split)} images of {split.cohort} {split.name}")
        for found, _ in results:
            told = "  ".join(f"{p.label} {p.accuracy.value:.3f} (chance {p.chance:.3f})" for p in found)
            print(f"  {found[0].block}: {told}")
        print(f"  {path}")
    print(f"next: equipoise report --workdir={folders[0]} --cohort={split.cohort} --split={split.name}")


if __name__ == "__main__":
    program.run(main)
