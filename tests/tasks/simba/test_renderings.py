import itertools

import numpy as np
import pytest

from equipoise.data_builders.simba import config as simba_config
from equipoise.engine.errors import UserError
from equipoise.tasks.simba import renderings, theory
from tests.engine.report import fake_run
from tests.tasks.simba import ideal
from tests.tasks.simba.ideal import WITH, WITHOUT

(BIAS,) = renderings.rendering_pairs(["bias"])
MORPHOLOGY, INTENSITY, BOTH, INSTEAD = renderings.rendering_pairs(["bias", "intensity_bias"])


def pair(n=400, lean=1.0):
    return fake_run.predictions(n, 3, lean=lean), fake_run.predictions(n, 3, flip=True, lean=lean)


def test_paired_effect_equals_the_closed_form_and_a_count_by_hand():
    factual, flipped = pair(20_000)
    found = renderings.paired_effect([(factual, flipped)], BIAS)
    assert found.sensitivity.value == pytest.approx(0.205, abs=0.015)
    assert found.fpr.value == pytest.approx(0.205, abs=0.015)
    with_bias = {}
    for table in (factual, flipped):
        for row in table[(table["bias"] == "with") & (table["target"] == 1)].itertuples():
            with_bias[row.subject_id] = row.score >= 0.5
    assert found.sensitivity.second == np.mean(list(with_bias.values()))
    assert found.sensitivity.n == len(with_bias) and found.sensitivity.lost == 0


def test_row_order_and_direction_do_not_matter():
    factual, flipped = pair()
    found = renderings.paired_effect([(factual, flipped)], BIAS)
    assert renderings.paired_effect([(flipped.sample(frac=1, random_state=0), factual)], BIAS) == found


def test_a_model_blind_to_the_bias_changes_nothing():
    found = renderings.paired_effect([pair(lean=0.0)], BIAS)
    assert found.sensitivity.value == found.fpr.value == 0
    assert found.sensitivity.low < 0 < found.sensitivity.high


def test_tables_that_are_no_pair_are_refused():
    factual, flipped = pair(20)
    effect = lambda a, b: renderings.paired_effect([(a, b)], BIAS)  # noqa: E731
    with pytest.raises(
        UserError, match=r"only 19 subjects are in both simba/near_4mm \(20\) and simba/near_4mm_counterf"
    ):
        effect(factual, flipped.iloc[1:])
    with pytest.raises(
        UserError, match="'bias' is not flipped between simba/near_4mm and simba/near_4mm for 20"
    ):
        effect(factual, factual)
    with pytest.raises(UserError, match="'target' differs .* for 20 subjects"):
        effect(factual, flipped.assign(target=1 - flipped["target"]))
    with pytest.raises(UserError, match="simba/near_4mm: column 'subject_id' repeats in 1 rows"):
        effect(factual.assign(subject_id=["a", "a", *map(str, range(18))]), flipped)
    with pytest.raises(UserError, match="simba/near_4mm_counterfactual has no column 'bias'"):
        effect(factual, flipped.drop(columns="bias"))


def test_a_second_bias_must_be_what_the_contrast_says():
    tables = {flips: t.frame for flips, t in ideal.rendered(50, ()).items()}
    with pytest.raises(UserError, match="column 'intensity_bias' differs between .* for 50 subjects"):
        renderings.paired_effect([(tables[()], tables[ideal.FLIPS[3]])], MORPHOLOGY)
    with pytest.raises(UserError, match="column 'intensity_bias' is not flipped between .* for 50 subjects"):
        renderings.paired_effect([(tables[()], tables["bias",])], BOTH)
    with pytest.raises(UserError, match="multi_8mm_seed3 has no column 'intensity_bias'"):
        renderings.paired_effect([(tables[()].drop(columns="intensity_bias"), tables["bias",])], MORPHOLOGY)


@pytest.mark.parametrize(
    ("cohort", "flips"),
    [
        ("simba/near_4mm", ()),
        ("simba/near_4mm_counterfactual", ("bias",)),
        ("simba/near_4mm_counterfactual_bias_region11", ("bias",)),
        ("simba/multi_4mm_counterfactual_flipintensity_bias", ("intensity_bias",)),
        ("simba/multi_4mm_counterfactual_flipall_subjects500_disease_mm3", ("bias", "intensity_bias")),
        ("simba/multi_4mm_intensity_in_disease0.8", ()),
    ],
)
def test_names_of_renderings_are_those_that_the_builder_gives(cohort, flips):
    biases = ["bias"] if "near" in cohort else ["bias", "intensity_bias"]
    assert renderings.flipped(cohort, biases) == set(flips)
    assert renderings.rendering(cohort, flips) == cohort
    plain = renderings.rendering(cohort, ())
    assert "counterfactual" not in plain and renderings.rendering(plain, flips) == cohort
    settings = {"subjects": 500, "disease_mm": 3.0} if "subjects500" in cohort else {}
    settings |= {"bias_region": "11"} if "region11" in cohort else {}
    settings |= {"intensity_in_disease": 0.8} if "disease0.8" in cohort else {}
    scenario = "near" if "near" in cohort else "multi"
    for wanted in (f for size in range(len(biases) + 1) for f in itertools.combinations(biases, size)):
        flip = {"counterfactual": True, "flip": "all" if len(wanted) > 1 else wanted[0]} if wanted else {}
        made = simba_config.make_config(scenario=scenario, **flip, **settings)
        assert renderings.rendering(cohort, wanted) == f"simba/{made.name}"


@pytest.mark.parametrize("reported", ideal.FLIPS)
def test_contrasts_of_two_biases_equal_a_count_of_every_rendering_and_the_closed_form(reported):
    uses = ("bias", "intensity_bias")
    tables = ideal.rendered(12_000, uses)
    # Decision about each subject under each combination, read off whichever table shows it.
    seen = {}
    for table in tables.values():
        rows = table.frame
        for i, levels in enumerate(zip(rows["bias"], rows["intensity_bias"], strict=True)):
            seen[i, levels] = rows["score"].to_numpy()[i] >= 0.5
    target, own = (tables[reported].frame[c] for c in ("target", "bias"))
    effects = dict(
        zip(("morphology", "intensity", "both", "instead"), renderings._effects(ideal.context(tables, reported), uses), strict=True)
    )  # fmt: skip
    expected = theory.expect(ideal.SHARES, flipped=reported)
    for metric, change_of in (("sensitivity", "sensitivity"), ("fpr", "fpr")):
        people = np.flatnonzero(target == (metric == "sensitivity"))
        ends = {
            "both": ((WITHOUT, WITHOUT), (WITH, WITH)),
            "instead": ((WITH, WITHOUT), (WITHOUT, WITH)),
        }
        for name, (first, second) in ends.items():
            found = getattr(effects[name][1], change_of)
            assert found.n == len(people)
            assert found.first == np.mean([seen[i, first] for i in people])
            assert found.second == np.mean([seen[i, second] for i in people])
            rates = expected.rates[metric]
            assert found.value == pytest.approx(rates[second] - rates[first], abs=0.02)
        found = getattr(effects["intensity"][1], change_of)
        assert found.second == np.mean([seen[i, (own[i], WITH)] for i in people])
        assert found.value == pytest.approx(expected.gap(metric, "intensity_bias"), abs=0.02)
        assert getattr(effects["morphology"][1], change_of).value == pytest.approx(
            expected.gap(metric, "bias"), abs=0.02
        )


@pytest.mark.parametrize(
    ("uses", "verdict"),
    [
        (("intensity_bias",), "The intensity bias outweighs the morphology bias."),
        (("bias",), "The morphology bias outweighs the intensity bias."),
        ((), "Neither bias outweighs the other beyond chance."),
    ],
)
def test_the_section_says_which_bias_outweighs_the_other(uses, verdict):
    found = renderings.section(ideal.context(ideal.rendered(800, uses)))
    assert found.headline.startswith(verdict) and found.command is None
    assert (
        "Rendering the intensity bias instead of the morphology bias into the very same subjects"
        in found.headline
    )
    assert [len(grid.rows) for grid in found.tables] == [2] * 4 and len(found.key_numbers) == 4
    assert found.tables[3].header[2:4] == ("morphology only", "intensity only")


def test_what_has_been_scored_is_shown_and_what_has_not_has_its_command():
    tables = ideal.rendered(800, ("bias",))
    some = {flips: tables[flips] for flips in ((), ("intensity_bias",))}
    found = renderings.section(ideal.context(some))
    assert found.headline.startswith(
        "Rendering the intensity bias into the very same subjects changed neither rate beyond"
    )
    assert [grid.caption for grid in found.tables] == ["The intensity bias"]
    assert found.command.splitlines() == [
        f"equipoise evaluate --workdir=... --cohort=simba/multi_8mm_counterfactual{flip}_seed3 --split=test --step=600"
        for flip in ("", "_flipall")
    ]
    # From the flips of either bias alone: those with both or neither show one instead of the other, the rest both or neither.
    del tables["bias", "intensity_bias"]
    *_, both, instead = renderings._effects(ideal.context(tables), ["bias", "intensity_bias"])
    alike = (tables[()].frame["bias"] == tables[()].frame["intensity_bias"]).to_numpy()
    sick = (tables[()].frame["target"] == 1).to_numpy()
    assert (both[1].sensitivity.n, instead[1].sensitivity.n) == ((sick & ~alike).sum(), (sick & alike).sum())
    nothing = renderings.section(ideal.context({(): tables[()]}))
    assert "have not been scored" in nothing.text[0] and len(nothing.command.splitlines()) == 3
