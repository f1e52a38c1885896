import multiprocessing
import pathlib

import pytest

from equipoise.engine import files


def test_a_file_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with files.replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_after_an_error_the_old_content_stands_and_nothing_is_left(tmp_path):
    path = tmp_path / "b.txt"
    files.write_text(path, "old")

    def fail():
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def _write_often(path: pathlib.Path, letter: str) -> None:
    for _ in range(200):
        files.write_text(path, letter * 10_000)


def test_writers_at_the_same_time_never_mix(tmp_path):
    """A temporary file of a fixed name is truncated by one writer while the other renames it."""
    path = tmp_path / "b.txt"
    spawned = multiprocessing.get_context("spawn")  # JAX, where it is loaded, does not survive a fork
    writers = [spawned.Process(target=_write_often, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert path.read_text() in ("a" * 10_000, "b" * 10_000)
    assert [writer.exitcode for writer in writers] == [0, 0] and list(tmp_path.iterdir()) == [path]
