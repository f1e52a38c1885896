"""Train a model, or go on with a run that stopped.

  equipoise train --config=simba:near --workdir=runs/near
  equipoise train --config=simba:near --workdir=runs/slow --config.optimizer.learning_rate=1e-4
  equipoise train --config=path/to/my_runs.py:baseline --workdir=runs/mine
  equipoise train --config=simba:near --workdir=runs/wide --config.parallel.mode=pmap --config.optimizer.accumulate=2
  equipoise train --config=simba:near --workdir=runs/fair --config.method.name=group_dro --config.method.group=bias
  equipoise train --config=path/to/my_runs.py:sites --workdir=runs/sites --config.method.name=fedavg --config.method.site=site --config.method.cycles=30
  equipoise train --config=simba:near --workdir=runs/many --config.population.seeds=8
  equipoise train --config=simba:near --print_config
  srun equipoise train --config=simba:near --workdir=/shared/near --distributed

The same command goes on from the newest checkpoint after a crash, a kill or SIGTERM. (SIGTERM saves first and exits with
code 75, so that a scheduler can queue the job again.) A folder that holds a run of another configuration is refused, and the
difference is shown; only the length, the devices, the workers and the writers may change. Several processes (--distributed,
or --coordinator with --num_processes and --process_id) share each batch and need a --workdir that all of them can see.

Every field of a run can be changed with --config.SECTION.FIELD=VALUE. --print_config lists the fields with their values;
"Fields of a run" in docs/cli.md says what each one means (`python -m equipoise.launch.reference` prints the same).

--config.method.name says how groups enter training: erm (they do not), reweighing, resampling, group_dro, unlearning or
group_models. --config.method.group names the attribute that forms the groups, or an intersection of attributes (race*sex).
Images of unknown group train with weight 1 and are never counted into another group.

--config.task.kind=segmentation --config.task.label=mask learns the masks of a cohort. The network gives logits for every
pixel, or for a coarser grid; the loss is cross-entropy and soft Dice (--config.task.dice_weight, dice_over, loss_grid).
Spatial transforms of --config.data.augment move the image and its mask together. Choose checkpoints with
--config.checkpoint.best_metric=dice, dice_STRUCTURE or worst_group:dice:ATTRIBUTE.

Learning across sites: --config.method.name=fedavg, fedprox, travelling, harmony_tm or fedtm. --config.method.site names the
attribute whose levels are the sites, and --config.method.cycles says how often all sites are visited; num_steps follows from
it. --config.evaluation.every_cycles=1 and --config.checkpoint.every_cycles=1 score and save at the end of each cycle. Images
of unknown site are not trained on. harmony_tm unlearns --config.method.group, such as the scanner. The last images of a site
make a smaller batch; learning-rate schedules count cycles, not updates.

--config.population.seeds=8 trains eight runs at once as one program, with eight seeds that start at the run's own.
--config.population.grid="optimizer.learning_rate=1e-3,1e-4" also trains each of them at each value. Every member gives the
same result as it would alone. The members are in WORKDIR/member_000, WORKDIR/member_001 and so on; each is the folder of a
run like any other.

Written to --workdir: config.json, checkpoints/, metrics.jsonl (losses and validation metrics), timing.jsonl (examples per
second, share of time spent waiting for data), tensorboard/, validation/ (the predictions of every evaluation).
"""

import json
import pathlib

from absl import flags

from equipoise.launch import program

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder. A run that is there goes on.")
_CONFIG = program.define_config()
program.define_hosts()


def main() -> None:
    """Trains."""
    from equipoise.engine import config as run_config

    config = program.read_config(_CONFIG)
    if flags.FLAGS.print_config:
        print(json.dumps(run_config.to_dict(config), indent=2))
        return
    if not _WORKDIR.value:
        raise run_config.UserError("no --workdir: name the run's folder, e.g. --workdir=runs/near")
    workdir = pathlib.Path(_WORKDIR.value).expanduser()

    from equipoise.engine import data, hosts, mesh
    from equipoise.engine.training import loop
    from equipoise.tasks import make_task

    program.join_hosts()
    training = data.open_split(config.data.cohort, config.data.train_split, program.data_dir())
    tell = print if hosts.is_main() else lambda _: None
    tell(
        f"training {config.model.name} on {len(training)} images of {config.data.cohort}, {mesh.describe()}, in {workdir}"
    )
    state, *_ = loop.train(config, make_task(config, training), program.data_dir(), workdir)
    tell(f"trained to step {int(state.step)}. Next: equipoise evaluate --workdir={workdir} --split=test")


if __name__ == "__main__":
    program.run(main)
