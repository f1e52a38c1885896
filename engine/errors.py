"""Errors that a user can mend, and the nearest known word for one that is not known."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend: shown as one line, without a traceback, exit code 1."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'?`` for the closest of ``known``, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
