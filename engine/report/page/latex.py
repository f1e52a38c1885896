"""A table of methods for LaTeX (booktabs): mean ± SD between seeds, with the 95 % interval below."""

import math
from collections.abc import Mapping, Sequence

_ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "–": "--", "−": "$-$", "Δ": r"$\Delta$", "×": r"$\times$", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$",
    '"': "''", "“": "``", "”": "''", "[": "{[}", "]": "{]}", "*": "{*}",  # after the end of a line, LaTeX would read the last three as arguments
}  # fmt: skip


def escape(text: str) -> str:
    """The text escaped, so that LaTeX prints it as it stands; a character that plain LaTeX lacks becomes its code point."""
    signs = (_ESCAPED.get(c, c if (c.isascii() and c.isprintable()) or (c.isalpha() and ord(c) < 0x180) else f"(U+{ord(c):04X})")
             for c in " ".join(text.split()))  # fmt: skip
    return "".join(signs)


def _number(value: float) -> str:
    text = f"{value:.3f}"
    return f"$-${text[1:]}" if text.startswith("-") and float(text) else text.lstrip("-")


def _cell(score: tuple[float, float, float, float], is_best: bool) -> tuple[str, str]:
    """Value ± SD, and the interval, as LaTeX; ``score`` is (value, SD, low, high)."""
    value, sd, low, high = score
    if not math.isfinite(value):
        return "--", ""
    shown = rf"\textbf{{{_number(value)}}}" if is_best else _number(value)
    shown += rf" $\pm$ {_number(sd)}" if math.isfinite(sd) else ""
    return shown, f"({_number(low)} to {_number(high)})" if math.isfinite(low + high) else "(no interval)"


def table(
    header: Sequence[str], rows: Mapping[str, Sequence[tuple[float, float, float, float]]],
    best: Mapping[str, Sequence[bool]], caption: str, label: str = "tab:runs",
) -> str:  # fmt: skip
    r"""Makes a table for a document that has ``\usepackage{booktabs}``.

    Args:
      header: headings of the columns after the method's.
      rows: method -> (value, SD between seeds, low, high) of each column.
      best: method -> whether each value is bold.
      caption: caption of the table, as plain text.
      label: name for references to the table.
    """
    lines = [
        r"% needs \usepackage{booktabs}", r"\begin{table}", r"  \centering", rf"  \caption{{{escape(caption)}}}", rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{l{'c' * len(header)}}}", r"    \toprule", "    " + " & ".join(["method", *map(escape, header)]) + r" \\", r"    \midrule",
    ]  # fmt: skip
    for name, cells in rows.items():
        shown = [_cell(score, bold) for score, bold in zip(cells, best[name], strict=True)]
        lines.append("    " + " & ".join([escape(name), *(value for value, _ in shown)]) + r" \\")
        lines.append(
            "    "
            + " & ".join(["", *(rf"{{\footnotesize {around}}}" if around else "" for _, around in shown)])
            + r" \\"
        )
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]) + "\n"
