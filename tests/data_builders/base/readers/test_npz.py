"""Reading NPZ files: what NumPy writes comes out, and nothing that a file says is run."""

import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from equipoise.data_builders import UnreadableScan, read_npz


class Command:
    """What an attacker puts into a file: to unpickle it is to run it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def boxed(value):
    """A 0-d array of objects, pickled as the release's scalars are."""
    box = np.empty((), object)
    box[()] = value
    return box


def npy(header, content):
    """One member of an NPZ file, byte by byte."""
    text = repr(header).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def write_raw(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    "value",
    [
        np.arange(12, dtype=np.int16).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(3, dtype=">u4"),
        np.array(7),
        np.zeros((0, 3)),
        np.array(["a", "bc"]),
    ],
    ids=str,
)
def test_arrays_come_out_as_numpy_reads_them(tmp_path, value):
    np.savez_compressed(tmp_path / "x.npz", value=value, other=1)
    read = read_npz(tmp_path / "x.npz", ["value", "absent"])
    assert list(read) == ["value"] and read["value"].dtype == value.dtype
    np.testing.assert_array_equal(read["value"], value)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
@pytest.mark.parametrize(
    "value",
    [3, 61.5, "note", np.int64(-1), np.float32(2.5), np.arange(6, dtype=np.uint8).reshape(2, 3), [1, 2]],
    ids=repr,
)
def test_pickled_values_come_out_as_what_they_are(tmp_path, value, protocol):
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    path = write_raw(tmp_path / "x.npz", value=npy(header, pickle.dumps(boxed(value), protocol)))
    np.testing.assert_array_equal(read_npz(path, ["value"])["value"], value)


def test_the_module_name_of_older_numpy_is_known(tmp_path):
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    pickled = pickle.dumps(boxed(np.int64(2)), 0).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core" in pickled
    assert read_npz(write_raw(tmp_path / "x.npz", value=npy(header, pickled)), ["value"])["value"] == 2


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "ran"
    np.savez(tmp_path / "x.npz", race=boxed(Command(marker)), age=boxed(60))
    with pytest.raises(UnreadableScan, match=r"names (posix|nt)\.system, .* not run"):
        read_npz(tmp_path / "x.npz", ["race"])
    assert read_npz(tmp_path / "x.npz", ["age"])["age"] == 60  # the other is not even opened
    assert not marker.exists()
    np.load(tmp_path / "x.npz", allow_pickle=True)["race"]
    assert marker.exists()  # the file is a real attack: NumPy runs it


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy._core.multiarray\nfromfile\n(S'x'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x14dtype.__subclasses__\x93.",
        b"cpickle\nloads\n(S'x'\ntR.",
        b"ccopyreg\n_reconstructor\n(S'x'\ntR.",
    ],
)
def test_nothing_but_arrays_is_ever_looked_up(tmp_path, opcodes):
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    with pytest.raises(UnreadableScan, match="holds a pickle that names .* not run"):
        read_npz(write_raw(tmp_path / "x.npz", value=npy(header, opcodes)), ["value"])


def test_damaged_files_are_refused_with_the_reason(tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez(whole, value=np.arange(1000))
    content = whole.read_bytes()
    changed = content.replace(np.arange(500, 510).tobytes(), bytes(80))
    for damaged in (content[: len(content) // 2], changed, b"not a zip file", b""):
        path = tmp_path / "damaged.npz"
        path.write_bytes(damaged)
        with pytest.raises(UnreadableScan, match=r"truncated or damaged \(BadZipFile\)"):
            read_npz(path, ["value"])
    with pytest.raises(UnreadableScan, match="missing"):
        read_npz(pathlib.Path(tmp_path / "absent.npz"), ["value"])


@pytest.mark.parametrize(
    ("header", "content", "message"),
    [
        ({"descr": "<i4", "fortran_order": False, "shape": (10**12,)}, bytes(8), "shorter or longer"),
        ({"descr": "<i4", "fortran_order": False, "shape": (1,)}, bytes(8), "shorter or longer"),
        ({"descr": "|O", "fortran_order": False, "shape": ()}, pickle.dumps(3), "not the array that its header says"),
        ({"descr": "|O", "fortran_order": False, "shape": ()}, b"\x80", "truncated or damaged"),
        ({"descr": "__import__('os')", "fortran_order": False, "shape": ()}, b"", "damaged"),
    ],
)  # fmt: skip
def test_headers_that_lie_are_refused(tmp_path, header, content, message):
    with pytest.raises(UnreadableScan, match=message):
        read_npz(write_raw(tmp_path / "x.npz", value=npy(header, content)), ["value"])
