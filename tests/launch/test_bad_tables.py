"""What a user is told of a table that cannot be audited: one line with the file, the column, the lines and the remedy."""

import pytest

from tests.launch.auditing import ROLES, in_one_process, people


def spoil(column, rows, value):
    def change(table):
        table = table.astype({column: object})
        table.loc[rows, column] = value
        return table

    return change


def same(table):
    return table


BAD = {
    "a missing column": (lambda t: t.rename(columns={"p": "P "}), (), ["no column 'p'", "Did you mean 'P '?"]),
    "no score": (spoil("p", [3, 7], ""), (), ["column 'p'", "no score (NaN)", "2 lines (5, 9)", "score every image"]),
    "a score that is no probability": (spoil("p", [0], 3.2), (), ["column 'p'", "outside [0, 1]", "1 line (2)", "not logits"]),
    "a decimal comma": (spoil("p", [0], "0,5"), (), ["column 'p'", "not a number", "1 line (2)", "0.5, not 0,5"]),
    "no truth": (spoil("y", [4], ""), (), ["column 'y'", "no value", "1 line (6)"]),
    "three classes": (spoil("y", [4], 2), (), ["column 'y'", "0, 1, 2", "--positive=VALUE", "--class_scores"]),
    "ids twice": (lambda t: t.assign(image="one"), ("--id=image",), ["column 'image'", "same id twice", "keep one row per image"]),
    "numbers as groups": (same, ("--group=age",), ["column 'age'", "different numbers", "--bins=age:"]),
    "cuts that fall": (same, ("--bins=age:60,40",), ["--bins=age:60,40", "increasing"]),
    "no such reference": (same, ("--reference=race:C",), ["--reference=race:C", "A, B"]),
    "no such split": (same, ("--threshold=youden:val",), ["no row of split 'val'", "--split"]),
    "judged where chosen": (
        same, ("--split=sex", "--report_split=F", "--threshold=youden:F"), ["judged on the same images", "another split"],
    ),
    "control of itself": (same, ("--control=race",), ["--control=race", "no group is left"]),
    "suppression that is off": (same, ("--min_cell=11",), ["--min_cell", "--share"]),
    "a confounder that is not there": (same, ("--adjust=agee",), ["no column 'agee'", "Did you mean 'age'?"]),
    "nobody left to adjust": (same, ("--adjust=race",), ["--adjust=race", "no group is left to compare"]),
    "adjusting what is shared": (same, ("--adjust=age", "--share"), ["--adjust", "--share"]),
    "folders without their people": (same, ("--pred_dir=p", "--ref_dir=r"), ["--attributes"]),
    "too few to share": (lambda t: t.iloc[:18], ("--share",), ["nothing of this table can be given away", "fewer than 11 patients"]),
    "no row": (lambda t: t.iloc[:0], (), ["no row below its header"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """(folder, case -> what the user is told) of every bad table."""
    folder = tmp_path_factory.mktemp("bad")
    commands = []
    for number, (change, more, _) in enumerate(BAD.values()):
        change(people(60)).to_csv(folder / f"{number}.csv", index=False)
        commands.append([f"--table={number}.csv", *ROLES, f"--out=out{number}", "--group=race", *more])
    return folder, dict(zip(BAD, in_one_process(folder, commands), strict=True))


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_told_in_one_line(told, case):
    folder, text = told[0], told[1][case]
    assert "\n" not in text and all(word in text for word in BAD[case][2]), text
    assert "person-" not in text and not list(folder.glob("out*"))
