"""Score a cohort with a checkpoint of a run: one row per image, nobody dropped.

  equipoise evaluate --workdir=runs/near
  equipoise evaluate --workdir=runs/near --cohort=simba/far_4mm --split=test --step=last
  equipoise evaluate --workdir=runs/near --cohort=simba/near_4mm,simba/near_4mm_counterfactual
  equipoise evaluate --workdir=runs/near --step=all --split=validation
  equipoise evaluate --workdir=runs/near --saliency
  equipoise evaluate --workdir=runs/many

Writes WORKDIR/evaluations/COHORT/SPLIT/STEP.parquet: ids, split, target, score, the threshold and the split it was
chosen on (always validation, never the split that is scored), attributes, and the fingerprints of checkpoint and
configuration. Of masks the table holds Dice, surface distances and volume errors of every structure, and
STEP.masks.parquet beside it the predicted masks. A population is scored member by member, each in its own folder. With --saliency also
WORKDIR/saliency/COHORT/STEP.npz: SmoothGrad maps of the true class's logit, averaged over correctly classified images of
each class and group (true positives and true negatives of a binary label). A report comes next:
`equipoise report --workdir=...`.
"""

import pathlib

from absl import flags

from equipoise.launch import program

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_COHORT = flags.DEFINE_list(
    "cohort", [], "Prepared cohorts to score, by comma. Default: the one the run was trained on."
)
_SPLIT = flags.DEFINE_string("split", "test", "Split of those cohorts.")
_STEP = flags.DEFINE_string("step", "best", "best (by the run's validation metric), last, all, or a number.")
program.define_hosts()
_NUM_DEVICES = flags.DEFINE_integer("num_devices", 0, "Devices to use; 0: every one.")
_SALIENCY = flags.DEFINE_bool("saliency", False, "Also average SmoothGrad maps by class and group.")
_SALIENCY_GROUP = flags.DEFINE_string(
    "saliency_attribute", None, "Attribute that defines the groups. Default: the first."
)
_SALIENCY_IMAGES = flags.DEFINE_integer("saliency_images", 10, "Images per class and group.", lower_bound=1)
_SALIENCY_NOISE = flags.DEFINE_float(
    "saliency_noise", 0.05, "SmoothGrad's noise, as a fraction of an image's range.", lower_bound=0.0
)


def main() -> None:
    """Evaluates."""
    from equipoise.engine import config as run_config
    from equipoise.engine.errors import UserError

    if not _WORKDIR.value:
        raise UserError("no --workdir: name the folder of a run")
    root = pathlib.Path(_WORKDIR.value).expanduser()
    config = run_config.load(root)
    config.parallel.num_devices = _NUM_DEVICES.value

    import numpy as np
    import rich.progress

    from equipoise.engine import data, files, hosts, rundir
    from equipoise.engine import predicted_masks as segments
    from equipoise.engine.explain import saliency
    from equipoise.engine.metrics.table.table import read_table, write_table
    from equipoise.engine.training import choosing, population
    from equipoise.engine.training.machine import Machine
    from equipoise.tasks import make_task

    program.join_hosts()
    tell = print if hosts.is_main() else lambda _: None
    training = data.open_split(config.data.cohort, config.data.train_split, program.data_dir())
    splits = [
        data.open_split(cohort, _SPLIT.value, program.data_dir())
        for cohort in _COHORT.value or [config.data.cohort]
    ]
    task = make_task(config, training)
    if _SALIENCY.value:
        saliency.check(task)
    for split in splits:
        data.check_classes(split, config.task.label, task.classes)
        task.warn(split, config.data)
    folders = population.folders(root, config)
    config = run_config.replaced(population.members(config)[0], parallel=config.parallel)
    machine = Machine(config, task, training)
    chosen = [
        (workdir, machine.as_member(run_config.load(workdir)), step)
        for workdir in folders
        for step in choosing.choose_steps(workdir, config, _STEP.value)
    ]
    for workdir, machine, step in chosen:
        config = machine.config
        state = choosing.restore(machine, workdir, step)
        kept = rundir.RunFolder(workdir).validation(step)
        if kept.exists():
            validation = read_table(kept).frame
        else:
            validation_split = data.open_split(
                config.data.cohort, config.data.validation_split, program.data_dir()
            )
            validation = machine.predict(state, validation_split)[0]
        threshold, chosen_on = task.choose_threshold(config.task.threshold, validation)
        for split in splits:
            with rich.progress.Progress(transient=True, disable=not hosts.is_main()) as progress:
                bar = progress.add_task(f"scoring {split.cohort} {split.name}", total=len(split))
                frame, loss = machine.predict(
                    state, split, lambda done, _, bar=bar: progress.update(bar, completed=done)
                )
            frame = rundir.stamp(frame, config, step, threshold, chosen_on)
            path = rundir.RunFolder(workdir).evaluation(split.cohort, split.name, step)
            frame, masks = segments.split_off(frame)
            if hosts.is_main():
                if masks is not None:
                    segments.write(path, masks)
                write_table(path, frame, task.schema(split))
            summary = "  ".join(f"{k} {v:.4f}" for k, v in {"loss": loss, **task.metrics(frame)}.items())
            tell(f"step {step}  {len(frame)} images of {split.cohort} {split.name}  {summary}\n  {path}")
            if _SALIENCY.value:
                path = rundir.RunFolder(workdir).saliency(split.cohort, step)
                attribute = saliency.choose_attribute(split, _SALIENCY_GROUP.value)
                groups = saliency.correct_groups(frame, task, attribute, _SALIENCY_IMAGES.value, config.seed)
                maps = saliency.group_maps(machine, state, split, groups, noise=_SALIENCY_NOISE.value)
                if hosts.is_main():
                    with files.replacing(path) as temporary, temporary.open("wb") as stream:
                        np.savez_compressed(stream, attribute=np.str_(attribute), **maps)
                tell(f"  {path}")
    tell(f"next: equipoise report --workdir={folders[0]} --cohort={splits[0].cohort} --split={_SPLIT.value}")


if __name__ == "__main__":
    program.run(main)
