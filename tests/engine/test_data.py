import numpy as np
import pytest

from equipoise.engine import data
from equipoise.engine.config import Data
from equipoise.engine.errors import UserError


@pytest.fixture
def split(tiny_data_dir):
    return data.open_split("tiny", "train", tiny_data_dir)


def stream(split, hosts=1, host=0, seed=5, batch_size=16):
    return data.TrainBatches(split, Data(cohort="tiny", batch_size=batch_size), "disease", seed, host, hosts)


def fingerprints(batch):
    return [image.tobytes() for image in batch["image"]]


def test_a_batch_is_a_function_of_seed_and_step(split):
    first = fingerprints(stream(split).at(7))
    assert first == fingerprints(stream(split).at(7))
    assert first != fingerprints(stream(split).at(8))
    assert first != fingerprints(stream(split, seed=6).at(7))


def test_iterating_from_a_step_gives_that_steps_batches(split):
    batches = stream(split)
    ahead = batches.iterate(3)
    for step in (3, 4, 5):
        assert fingerprints(next(ahead)) == fingerprints(batches.at(step))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_hold_the_batch_of_one_host_in_the_same_order(split, hosts):
    whole = stream(split).at(4)
    parts = [stream(split, hosts, h).at(4) for h in range(hosts)]
    for name in ("image", "target", "position"):
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), whole[name])


def test_every_epoch_holds_every_image_once_in_a_new_order(split):
    n = len(split)
    batches = stream(split, batch_size=1)
    epochs = [[fingerprints(batches.at(e * n + i))[0] for i in range(n)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert len(set(epochs[0])) == n
    assert epochs[0] != epochs[1]


def test_position_is_the_place_in_the_global_batch(split):
    np.testing.assert_array_equal(stream(split).at(9)["position"], np.arange(16))


def test_shape_crops_and_pads(split):
    config = Data(cohort="tiny", batch_size=4, shape=(6, 10, 8))
    batch = data.TrainBatches(split, config, "disease", 0).at(0)
    assert batch["image"].shape == (4, 6, 10, 8, 1)


def test_columns_hold_words_and_numbers(split):
    columns = split.columns
    assert len(columns) == len(split)
    assert set(columns["sex"]) <= {"F", "M", "unknown"}
    assert columns["age"].dtype == float
    assert set(columns["label:disease"]) == {0, 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cohort": "tinny"}, "Did you mean 'tiny'"),
        ({"split": "tests"}, "Did you mean 'test'"),
        ({"label": "diseese"}, "Did you mean 'disease'"),
        ({"hosts": 3}, "does not divide among 3 hosts"),
    ],
)
def test_mistakes_are_named(tiny_data_dir, change, message):
    given = {"cohort": "tiny", "split": "train", "label": "disease", "hosts": 1} | change
    with pytest.raises(UserError, match=message):
        opened = data.open_split(given["cohort"], given["split"], tiny_data_dir)
        data.TrainBatches(opened, Data(batch_size=16), given["label"], 0, 0, given["hosts"])


def test_what_was_decoded_is_kept_within_the_limit():
    """Ten images of 12 bytes, of which 40 bytes hold three; every image is the source's own."""
    asked = []

    class Source:
        def __len__(self):
            return 10

        def __getitem__(self, index):
            asked.append(index)
            return {"image": np.full((3, 4), index, np.uint8)}

    kept = data._Kept(Source(), limit=40)
    for _ in range(2):
        assert [int(kept[i]["image"][0, 0]) for i in range(10)] == list(range(10)) and len(kept) == 10
    assert asked == [*range(10), *range(3, 10)]


def test_the_second_epoch_reads_nothing(split, monkeypatch):
    batches = stream(split, batch_size=8)
    first = fingerprints(batches.at(0))
    for step in range(-(-len(split) // 8) + 1):
        batches.at(step)
    monkeypatch.setattr(split.source, "_source", None)
    assert fingerprints(batches.at(0)) == first
    assert len(fingerprints(batches.at(500))) == 8
