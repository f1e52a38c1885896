"""Files that others wrote: what is read, what is refused, and that nothing in them runs."""

import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.models.published import files


def test_pytorch_archives_are_read_as_pytorch_reads_them(rng, tmp_path):
    torch = pytest.importorskip("torch")
    whole = torch.randn(6, 8)
    tensors = {
        "module.view": whole.T[2:5, 1:],
        "module.half": whole.half(),
        "module.narrow": whole.bfloat16(),
        "module.count": torch.tensor(3),
        "module.learned": torch.nn.Parameter(whole[0]),
    }
    torch.save({"model": tensors, "epoch": 7}, tmp_path / "a.pth")
    found = files.read(tmp_path / "a.pth")
    assert list(found) == [name.removeprefix("module.") for name in tensors]
    for name, tensor in tensors.items():
        value = found[name.removeprefix("module.")]
        np.testing.assert_array_equal(value.astype(np.float64), tensor.detach().double().numpy())


class _Malicious:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("touched"),)


def _archive(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return path


def test_nothing_in_a_file_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = _archive(tmp_path / "bad.pth", pickle.dumps({"a": _Malicious()}))
    with pytest.raises(UserError, match="which is no tensor"):
        files.read(path)
    with zipfile.ZipFile(path) as archive:
        assert not pathlib.Path("touched").exists()
        pickle.loads(archive.read("archive/data.pkl"))  # which would have run
    assert pathlib.Path("touched").exists()
    np.savez(tmp_path / "bad.npz", a=np.asarray([_Malicious()], dtype=object))
    with pytest.raises(UserError, match="does not read"):
        files.read(tmp_path / "bad.npz")


def test_a_tensor_beyond_its_data_is_refused():
    values = np.arange(6.0)
    np.testing.assert_array_equal(files._tensor(values, 1, (2, 2), (2, 1)), [[1, 2], [3, 4]])
    for offset, sizes, strides in ((3, (2, 2), (2, 1)), (0, (2,), (-1,)), (-1, (1,), (1,))):
        with pytest.raises(pickle.UnpicklingError, match="beyond"):
            files._tensor(values, offset, sizes, strides)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", b"", "files that can be read end in .pth"),
        ("a.pth", None, "no such file"),
        ("a.pth", b"\x80\x02}", "no PyTorch archive"),
        ("a.safetensors", b"\xff" * 16, "does not read"),
        ("a.npz", b"PK", "does not read"),
    ],
)
def test_files_that_do_not_read(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.read(tmp_path / name)
