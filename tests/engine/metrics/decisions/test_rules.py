import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.decisions import rules


def rule(body):
    return "rules:\n" + "".join(
        f"  {'- ' if not i else '  '}{line}\n" for i, line in enumerate(body.split("; "))
    )


WRONG = {
    "rules: [": ":1: no valid YAML",
    "": "the file is empty",
    "rule:\n  - metric: f1\n": ":1: unknown key 'rule'. Did you mean 'rules'?",
    "rules: []\n": ":1: there is no rule",
    rule("metrics: f1; min: 0"): ":2: unknown key 'metrics'. Did you mean 'metric'?",
    rule("metric: sensitivty; min: 0"): ":2: no metric 'sensitivty'. Did you mean 'sensitivity'?",
    rule("min: 0; score: max_mni:f1"): ":3: no score over groups 'max_mni:f1'. Did you mean 'max_min'?",
    rule("score: max_min:f2; max: 0"): ":2: no metric 'f2'",
    rule("metric: max_min:f1; max: 0"): ":2: 'max_min:f1' is a score over groups: write score: max_min:f1",
    rule("metric: f1"): ":2: a rule needs a bound",
    rule("metric: f1; score: sd:f1; min: 0"): ":2: a rule names either",
    rule("metric: f1; min: high"): ":3: min must be a finite number",
    rule("metric: f1; min: '0.8'"): ":3: min must be a finite number",
    rule("metric: f1; min: .nan"): ":3: min must be a finite number",
    rule("metric: f1; min: 0.9; max: 0.1"): ":3: min 0.9 is above max 0.1",
    rule("metric: f1; min: 0; min: 1"): ":4: key 'min' is there twice",
    rule("metric: f1; min: 0; on: lowr"): ":4: on: 'lowr' is none of estimate, lower, upper. Did you mean 'lower'?",
    rule("metric: f1; min: 0; groups: {race: []}"): ":4: race: name its levels",
    rule("metric: [f1]; min: 0"): ":2: metric must be text",
    "- metric: f1\n": ":1: a policy must be a mapping",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_in_the_file_is_told_with_its_line(tmp_path, text):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as told:
        rules.read(path)
    assert str(told.value).startswith("policy.yaml") and WRONG[text] in str(told.value)


def test_levels_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(
        "rules:\n  - metric: f1\n    groups: [overall, {grade: [1, yes, 2.0]}, race*sex]\n    min: -.5\n"
    )
    (one,) = rules.read(path)
    assert (
        one.groups == (("overall", None), ("grade", ("1", "yes", "2.0")), ("race*sex", None))
        and one.low == -0.5
    )


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no policy file"):
        rules.read(tmp_path / "nothing.yaml")
