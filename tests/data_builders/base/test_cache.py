import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from equipoise.data_builders.base.cache import DecodedCache
from equipoise.data_builders.base.readers import Pixels, UnreadableScan
from tests import launching

SLOW_FILL = """
import pathlib, sys, time
import numpy as np
from equipoise.data_builders.base.cache import DecodedCache
from equipoise.data_builders.base.readers import Pixels

folder, log = map(pathlib.Path, sys.argv[1:])

def decode(file):
    time.sleep(0.03)
    with log.open("a") as stream:
        stream.write(file.name + "\\n")
    return Pixels(np.full((4, 4, 1), int(file.stem), np.uint8), np.ones(2))

files = sorted(folder.glob("*.raw"))
there = DecodedCache(folder / "cache", {}).fill(files, lambda f: [f], decode, "decoding", threads=2)
print(f"there {there}")
"""


def raw(folder, count):
    files = [folder / f"{i:03d}.raw" for i in range(count)]
    for file in files:
        file.write_bytes(b"raw")
    return files


def pixels(value=1, mask=None):
    return Pixels(np.full((3, 4, 1), value, np.int16), np.array([1, 2], np.float32), (0.5, -1.0), mask)


def test_a_fill_that_was_killed_goes_on_where_it_stopped(tmp_path):
    files, log = raw(tmp_path, 80), tmp_path / "log"
    words = [sys.executable, "-c", SLOW_FILL, str(tmp_path), str(log)]
    where = {"env": launching.environment(), "cwd": launching.ROOT}
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, **where) as run:
        end = time.monotonic() + 60
        while len(list(tmp_path.glob("cache/*.npz"))) < 20:
            assert run.poll() is None and time.monotonic() < end
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
    kept = len(list(tmp_path.glob("cache/*.npz")))
    assert 20 <= kept < 80
    log.unlink()
    done = subprocess.run(words, capture_output=True, text=True, check=True, **where)
    assert f"there {kept}" in done.stdout
    assert len(log.read_text().splitlines()) == 80 - kept
    cache = DecodedCache(tmp_path / "cache", {})
    for i, file in enumerate(files):
        assert cache.get([file], pytest.fail).image.max() == i


def test_what_is_read_back_is_what_was_decoded(tmp_path):
    (file,) = raw(tmp_path, 1)
    cache = DecodedCache(tmp_path / "cache", {"size": [3, 4]})
    for mask in (None, np.eye(3, 4, dtype=np.uint8)):
        cache.remove()
        cache.get([file], lambda mask=mask: pixels(7, mask))
        back = cache.get([file], pytest.fail)
        np.testing.assert_array_equal(back.image, pixels(7).image)
        assert back.image.dtype == np.int16 and back.scale == (0.5, -1.0)
        np.testing.assert_array_equal(back.spacing, [1, 2])
        assert (back.mask is None) == (mask is None)


def test_damage_is_noticed_wherever_it_strikes_and_the_scan_decoded_again(tmp_path):
    (file,) = raw(tmp_path, 1)
    cache = DecodedCache(tmp_path / "cache", {})
    cache.get([file], pixels)
    entry = cache.path([file])
    whole = entry.read_bytes()
    for place in range(0, len(whole), 7):
        entry.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        np.testing.assert_array_equal(cache.get([file], pixels).image, pixels().image)
    for damaged in (b"", whole[: len(whole) // 2]):
        entry.write_bytes(damaged)
        called = []
        cache.get([file], lambda called=called: called.append(1) or pixels())
        assert called and entry.read_bytes()[:2] == b"PK" and len(entry.read_bytes()) == len(whole)


def test_a_changed_file_or_setting_is_another_entry_and_no_name_tells_the_path(tmp_path):
    folder = tmp_path / "jane_doe"
    folder.mkdir()
    (file,) = raw(folder, 1)
    cache = DecodedCache(tmp_path / "cache", {"size": 3})
    names = {cache.path([file]), DecodedCache(cache.folder, {"size": 4}).path([file])}
    file.write_bytes(b"changed")
    names.add(cache.path([file]))
    assert len(names) == 3
    assert not any("jane" in str(name.name) for name in names)
    (folder / "link").symlink_to(file)
    assert cache.path([folder / "link"]) == cache.path([file])


def test_unreadable_scans_are_passed_over_and_tried_again(tmp_path):
    files = raw(tmp_path, 3)
    files[2].unlink()

    def decode(file):
        if file.stem == "001":
            raise UnreadableScan("truncated")
        return pixels()

    cache = DecodedCache(tmp_path / "cache", {})
    assert cache.fill(files, lambda f: [f], decode, "decoding", 2) == 0
    assert len(list(cache.folder.iterdir())) == 1
    with pytest.raises(UnreadableScan, match="^truncated$"):
        cache.get([files[1]], lambda: decode(files[1]))
    with pytest.raises(UnreadableScan, match="^file is missing$"):
        cache.get([files[2]], pixels)
    assert cache.fill(files, lambda f: [f], lambda f: pixels(), "decoding", 2) == 1


def test_removal_leaves_what_is_not_of_the_cache(tmp_path):
    (file,) = raw(tmp_path, 1)
    cache = DecodedCache(tmp_path, {})
    cache.get([file], pixels)
    (tmp_path / "mine.npz").write_bytes(b"")
    (tmp_path / f".{'a' * 40}.1.2.tmp").write_bytes(b"")
    cache.remove()
    assert {p.name for p in pathlib.Path(tmp_path).iterdir()} == {"000.raw", "mine.npz"}
    DecodedCache(tmp_path / "never", {}).remove()
