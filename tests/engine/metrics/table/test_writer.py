import numpy as np
import pandas as pd
import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.table.writer import PredictionWriter


class Tensor:
    """What the writer needs of a framework's tensor."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def detach(self):
        return self

    cpu = detach

    def float(self):
        return Tensor(self.values.astype(np.float32))

    def is_floating_point(self):
        return self.values.dtype.kind == "f"

    def __array__(self, dtype=None, copy=None):
        return self.values


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_batches_become_one_table(tmp_path, name):
    with PredictionWriter(tmp_path / "deep" / name, classes=["a", "b"]) as table:
        table.add(
            target=Tensor([0, 1]),
            p=Tensor(np.float16([[0.5, 0.5], [0.25, 0.75]])),
            sex=["F", "M"],
            fold="test",
        )
        table.add(target=np.array([1]), p=np.array([[0.0, 1.0]]), sex=["F"], fold="test")
    read = pd.read_csv if name.endswith("csv") else pd.read_parquet
    frame = read(tmp_path / "deep" / name)
    assert frame["target"].tolist() == [0, 1, 1] and frame["p_b"].tolist() == [0.5, 0.75, 1.0]
    assert frame["sex"].tolist() == ["F", "M", "F"] and set(frame["fold"]) == {"test"}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == [name]


def test_a_torch_tensor_is_taken(tmp_path):
    torch = pytest.importorskip("torch")
    with PredictionWriter(tmp_path / "t.parquet") as table:
        table.add(
            score=torch.tensor([[0.5], [0.25]], dtype=torch.bfloat16, requires_grad=True),
            target=torch.tensor([1, 0]),
        )
    assert pd.read_parquet(tmp_path / "t.parquet")["score"].tolist() == [0.5, 0.25]


def test_mistakes_are_told_and_a_failed_loop_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="ends in .parquet or .csv"):
        PredictionWriter(tmp_path / "t.npz")
    with pytest.raises(UserError, match="no row was added"), PredictionWriter(tmp_path / "t.csv"):
        pass
    with (
        pytest.raises(UserError, match="different lengths: target 2, score 3"),
        PredictionWriter(tmp_path / "t.csv") as table,
    ):
        table.add(target=[0, 1], score=[0.1, 0.2, 0.3])
    with pytest.raises(UserError, match="shape \\(2, 3\\)"), PredictionWriter(tmp_path / "t.csv") as table:
        table.add(p=np.zeros((2, 3)))
    with (
        pytest.raises(UserError, match="'sex' is not in every batch"),
        PredictionWriter(tmp_path / "t.csv") as table,
    ):
        table.add(target=[0], sex=["F"])
        table.add(target=[0], sxe=["F"])
    assert not list(tmp_path.iterdir())
