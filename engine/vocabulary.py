"""Words that mean the same in cohorts, prediction tables and reports: for what is unknown, and for what is missing."""

import unicodedata

UNKNOWN = "unknown"
MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "<na>", UNKNOWN})
"""Words that stand for a missing value in every table, as :func:`normalized` gives them."""

LIKELY_MISSING_WORDS = MISSING_WORDS | {
    *("#n/a", "n.a.", "nil", "?", "-", ".", "unk", "missing"),
    *("not available", "not applicable", "not known", "not reported"),
}
"""Words that usually stand for a missing value, but may be a group or a class, such as ``-`` beside ``+``.

They are read as missing only where a person confirms it: in a proposed schema.
"""


def normalized(text: str) -> str:
    """Returns what spellings share that differ only in case, blanks or the width of characters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def is_missing(text: str) -> bool:
    """Whether a cell of a table stands for a missing value, whoever reads it."""
    return normalized(text) in MISSING_WORDS


def may_be_missing(text: str) -> bool:
    """Whether a cell of a table probably stands for a missing value; a person must confirm it."""
    return normalized(text) in LIKELY_MISSING_WORDS
