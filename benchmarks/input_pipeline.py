"""Reading volumes for training: a prepared cohort (ArrayRecord) against NIfTI files through a PyTorch DataLoader.

    python benchmarks/input_pipeline.py [--rounds=5] [--subjects=200]

Both give shuffled float32 batches in [0, 1] of the same synthetic brains (cohort simba/near_4mm, 40 x 56 x 48 voxels).
Ours is equipoise.engine.data.TrainBatches with its threads and read-ahead, as `equipoise train` uses it; the peer is nibabel in a
DataLoader without workers and with two, over .nii and over .nii.gz. Files are in the page cache; a worker's start is
not counted, as it is paid once. The closing line is against the faster DataLoader over .nii.gz, the form that scans are
mostly shared in; ratio is our time per volume over its time.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # as a program: the project is above

from benchmarks import common
from equipoise.engine import data
from equipoise.engine.config import Data

ROOT = pathlib.Path(__file__).resolve().parents[1]
BATCH, WORKERS = 16, 2


def prepare(folder: pathlib.Path, subjects: int) -> str:
    """Prepares the cohort with the program that users call; returns its name."""
    words = ["--cohort=simba/near_4mm", f"--options=subjects={subjects}", f"--data_dir={folder}"]
    done = subprocess.run(
        [sys.executable, "-m", "equipoise.launch", "prepare", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"equipoise prepare {' '.join(words)} failed:\n{done.stdout}")
    (config,) = (p.parent.parent for p in folder.glob("simba/*/*/dataset_info.json"))
    return str(config.relative_to(folder))


def write_nifti(split: data.Split, folder: pathlib.Path, suffix: str) -> list[pathlib.Path]:
    """Writes every volume of a split as the bytes that the cohort stores, with the same scale."""
    import nibabel as nib

    affine, paths = np.array(split.metadata["affine"]), []
    for number in range(len(split)):
        example = split.source[number]
        slope, intercept = map(float, example["scale"])
        volume = example["image"][..., 0] * slope + intercept
        image = nib.Nifti1Image(volume, affine)  # saving chooses a scale of its own
        image.set_data_dtype(example["image"].dtype)
        paths.append(folder / f"{number:05d}{suffix}")
        nib.save(image, paths[-1])
        np.testing.assert_allclose(nib.load(paths[-1]).get_fdata(), volume, atol=slope)
    return paths


class NiftiFolder:
    """A map-style dataset: float32 [1, *spatial] in real units, and a target."""

    def __init__(self, paths: list[pathlib.Path], targets: list[int]):
        self._paths, self._targets = paths, targets

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        import nibabel as nib

        return nib.load(self._paths[index]).get_fdata(dtype=np.float32)[None], self._targets[index]


def our_batches(split: data.Split) -> Iterator[np.ndarray]:
    """Endless batches in real units, as the training step's preprocessing makes them of the stored bytes."""
    config = Data(cohort=split.cohort, batch_size=BATCH, num_threads=WORKERS)
    for batch in data.TrainBatches(split, config, "disease", seed=0).iterate(0):
        scale = batch["scale"].reshape(-1, 2, 1, 1, 1, 1)
        yield batch["image"].astype(np.float32) * scale[:, 0] + scale[:, 1]


def torch_batches(paths: list[pathlib.Path], targets: list[int], workers: int) -> Iterator[np.ndarray]:
    """Endless batches of a DataLoader whose workers live on from epoch to epoch."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        NiftiFolder(paths, targets),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,  # JAX's threads do not survive a fork
    )
    while True:
        for images, _ in loader:
            yield images.numpy()


def seconds_per_volume(next_batch: Callable[[], np.ndarray], batches: int) -> float:
    """Wall time of taking so many batches, each touched once."""
    start = time.perf_counter()
    for _ in range(batches):
        next_batch().max()
    return (time.perf_counter() - start) / (batches * BATCH)


def main() -> None:
    """Prints a table and the closing line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each side")
    parser.add_argument("--batches", type=int, default=40, help="batches in a turn")
    parser.add_argument("--subjects", type=int, default=200, help="of the cohort; half of them are read")
    args = parser.parse_args()
    torch = common.require("torch")
    common.restart_on_cpu()
    print(f"{common.machine()}, torch {torch.__version__}; {common.load()}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        print(f"preparing {args.subjects} subjects: about half a minute", flush=True)
        split = data.open_split(prepare(folder, args.subjects), "train", folder)
        targets = split.columns["label:disease"].tolist()
        streams = {"ours, ArrayRecord": our_batches(split)}
        sizes = {
            "ours, ArrayRecord": sum(p.stat().st_size for p in folder.glob("simba/*/*/*train*array_record*"))
        }
        for suffix in (".nii", ".nii.gz"):
            place = folder / suffix.strip(".")
            place.mkdir()
            paths = write_nifti(split, place, suffix)
            for workers in (0, WORKERS):
                name = f"DataLoader, {suffix}, {workers} workers"
                streams[name] = torch_batches(paths, targets, workers)
                sizes[name] = sum(p.stat().st_size for p in paths)
        best = dict.fromkeys(streams, float("inf"))
        for _ in range(args.rounds):
            for name, stream in streams.items():
                for _ in range(2 + 2 * WORKERS):  # what was read ahead while others ran is not counted
                    next(stream)
                spent = seconds_per_volume(lambda stream=stream: next(stream), args.batches)
                best[name] = min(best[name], spent)
        print(
            f"{'least of ' + str(args.rounds) + ' turns':36s} {'volumes/s':>10s} {'ms/volume':>10s} {'KiB/volume':>11s}"
        )
        for name, spent in best.items():
            size = sizes[name] / len(split) / 1024
            print(f"{name:36s} {1 / spent:10.0f} {spent * 1e3:10.3f} {size:11.1f}")
        del streams
    print(common.load())
    peer = min((name for name in best if ".nii.gz" in name), key=best.get)
    common.report(f"input_pipeline: vs {peer}", best["ours, ArrayRecord"], best[peer], "seconds per volume")


if __name__ == "__main__":
    main()
