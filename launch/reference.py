"""Writes docs/cli.md, the reference of every command and of every field of a run, from the code.

python -m equipoise.launch.reference > docs/cli.md
"""

import dataclasses
import inspect
import subprocess
import sys

from equipoise.engine import config as run_config
from equipoise.launch.__main__ import COMMANDS


def _help(command: str) -> str:
    """A section with the ``--help`` of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "equipoise.launch", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    return f"## equipoise {command}\n\n```text\n{done.stdout.strip()}\n```\n"


def _fields(kind: type, prefix: str) -> list[str]:
    """Table rows of a dataclass, its nested ones after it; a field's meaning is the ``help`` in its metadata."""
    rows, nested = [], []
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            summary = (inspect.getdoc(field.type) or "").splitlines()[0]
            nested += [f"| **{prefix}{field.name}** | | {summary} |"]
            nested += _fields(field.type, f"{prefix}{field.name}.")
        else:
            default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
            cells = (f"`{prefix}{field.name}`", default, field.metadata["help"])
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return rows + nested


def text() -> str:
    """The whole reference, in Markdown."""
    head = "# Command line reference\n\nWritten by `make docs` from the code; a test keeps it true.\n"
    fields = [
        "## Fields of a run\n\nOverride any of them: `--config.optimizer.learning_rate=1e-4`. Arguments of a network: "
        "`--config.model.args.NAME=VALUE`.\n\n| field | default | meaning |\n|---|---|---|",
        *_fields(run_config.Run, ""),
    ]
    return "\n".join([head, *map(_help, COMMANDS), "\n".join(fields)]) + "\n"


if __name__ == "__main__":
    print(text(), end="")
