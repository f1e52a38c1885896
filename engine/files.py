"""Files that appear whole or not at all, also when a program is killed or several processes write at once."""

import contextlib
import os
import pathlib
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, sync: bool = True) -> Iterator[pathlib.Path]:
    """Gives a temporary path to write to, which takes the place of ``path`` at the end of the block.

    After an error ``path`` is as it was before, and the temporary file is gone. Its name holds the process and the thread,
    so that two writers never share one.

    Args:
      path: of the file; its folder is made where needed.
      sync: whether the content is on the disk before it takes the name, so that a power cut leaves no empty file. Only
        files that can be made again may do without.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield temporary
        if sync:
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text, as UTF-8, that appears whole or not at all."""
    write_bytes(path, text.encode())
