"""FairSeg runs: optic rim and cup in fundus images, by a residual U-Net, SAMed and TransUNet.

  equipoise prepare --cohort=fundus_phantom/demo
  equipoise train   --config=fairseg:phantom --workdir=runs/phantom              (drawn images of 64 pixels; no gated data)
  equipoise prepare --cohort=harvard_fairseg/slo --source_dir=FairSeg
  equipoise train   --config=fairseg:samed --workdir=runs/samed --config.model.weights=sam_vit_b_01ec64.pth       (for a GPU)
  equipoise train   --config=fairseg:transunet --workdir=runs/transunet --config.model.weights=ViT-B_16.npz       (for a GPU)
  equipoise train   --config=fairseg:unet --workdir=runs/unet                                                     (for a GPU)

`samed` and `transunet` have the settings of the code released with the paper; `unet` is a plain baseline.
Groups enter by `--config.method.name=febs_released|febs_intent|group_dro|resampling|reweighing --config.method.group=race`.

Cost: `phantom` takes a minute on 2 CPU cores; the others need a GPU. What to expect: under `phantom`, on 2,000 eyes, test Dice 0.96 for the disc, 0.90 for the
rim and 0.86 for the cup, lowest in the group whose edges are drawn faintest (Black, by design: rim 0.83). tasks/fairseg/README.md has every figure.
"""

from equipoise.engine.config import Run
from equipoise.engine.errors import did_you_mean
from equipoise.engine.models import lora

_SCANS = 7200  # training images of Harvard-FairSeg: 8,000 less a tenth for validation


def names() -> list[str]:
    """Names of the runs."""
    return ["phantom", "unet", "samed", "transunet"]


def get_config(name: str = "phantom") -> Run:
    """One model on one cohort.

    Raises:
      ValueError: for an unknown name, with those that there are.
    """
    if name not in names():
        raise ValueError(
            f"no run {name!r} in fairseg.{did_you_mean(name, names())} There are: {', '.join(names())}"
        )
    run = Run()
    run.seed = 0
    run.task.kind, run.task.label = "segmentation", "mask"
    run.checkpoint.best_metric = "dice"
    run.data.preprocess = ""  # images lie between 0 and 1 already; the released code does no more
    run.optimizer.schedule = "poly"
    return {"phantom": _phantom, "unet": _unet, "samed": _samed, "transunet": _transunet}[name](run)


def _phantom(run: Run) -> Run:
    """A small U-Net on drawn images."""
    run.data.cohort = "fundus_phantom/demo"
    run.data.batch_size, run.data.eval_batch_size = 16, 40
    run.data.augment = "flip(axis=0)|flip(axis=1)"
    run.task.dice_over = "batch"
    run.model.name, run.model.args = "unet", {"features": (8, 16, 32, 64), "blocks": 1}
    run.optimizer.name, run.optimizer.learning_rate, run.optimizer.weight_decay = "adamw", 3e-3, 1e-2
    return _length(run, 300, 50)


def _length(run: Run, steps: int, every: int) -> Run:
    """Sets the length of a run, and how often it is scored and saved."""
    run.num_steps = run.optimizer.decay_steps = steps
    run.evaluation.every_steps = run.checkpoint.every_steps = every
    return run


def _harvard(run: Run, batch_size: int, epochs: int) -> Run:
    """Sets the cohort, augmented as in the released code, and an evaluation after every fifth epoch."""
    run.data.cohort = "harvard_fairseg/slo"
    run.data.batch_size, run.data.eval_batch_size = batch_size, batch_size
    run.data.shape = (512, 512)  # of 664 x 798; a warning says how many images lose part of a structure
    run.data.augment = "transunet"
    run.data.num_threads = 8
    run.task.dice_over = "batch"
    epoch = _SCANS // batch_size
    return _length(run, epochs * epoch, 5 * epoch)


def _unet(run: Run) -> Run:
    """A residual U-Net in 2D."""
    run = _harvard(run, 24, 100)
    run.model.name = "unet"
    run.optimizer.name, run.optimizer.learning_rate, run.optimizer.weight_decay = "adamw", 1e-3, 1e-2
    return run


def _samed(run: Run) -> Run:
    """SAM with ViT-B at 512 pixels, adapters of rank 4, prompt encoder and decoder trained: 70 of 100 planned epochs."""
    run = _harvard(run, 48, 100)
    run.num_steps = 70 * (_SCANS // 48)
    run.model.name, run.model.args = "sam", {"lora_rank": 4, "remat": True}
    run.optimizer.freeze = lora.FREEZE
    run.task.dice_weight, run.task.loss_grid = 0.8, "output"  # a quarter of the image's side
    run.optimizer.name, run.optimizer.learning_rate, run.optimizer.weight_decay = "adamw", 5e-3, 0.1
    run.optimizer.warmup_steps = 250
    return run


def _transunet(run: Run) -> Run:
    """TransUNet on ViT-B/16 without skips, at 224 pixels."""
    run = _harvard(run, 24, 300)
    run.data.preprocess = "resize(shape=(224, 224))"
    run.model.name = "transunet"
    run.task.dice_weight, run.task.loss_grid = 0.5, "image"
    run.optimizer.name, run.optimizer.learning_rate, run.optimizer.weight_decay = "sgd", 0.01, 1e-4
    return run
