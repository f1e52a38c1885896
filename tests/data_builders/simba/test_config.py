"""Settings of the synthetic cohort: their names, their limits, and what must not depend on them."""

import json

import pytest

from equipoise.data_builders.simba.builder import Simba
from equipoise.engine.errors import UserError
from tests.data_builders.simba.test_anatomy import write_pair


def test_settings_that_differ_never_share_a_name():
    changes = [
        *({"seed": s} for s in (1234567, 1234568, 12345678)),
        *({"noise": n} for n in (0.0123456, 0.01234561)),
        *({"bias_region": r} for r in ("left putamen", "right caudate", "left insula")),
        *({"disease_region": r} for r in ("left putamen", "right caudate", "left insula")),
        {"local_model": "mode"},
        {"variability": "shared_scalar"},
        {"contrast": 1.1},
    ]
    assert len({Simba.configure("near_4mm", **change).name for change in changes}) == len(changes)


def test_names_tell_what_is_not_default():
    assert Simba.configure("far_3mm", subjects=40, seed=2).name == "far_3mm_subjects40_seed2"
    assert Simba.configure("near_4mm", resolution=8).name == "near_8mm"
    assert Simba.configure("near_4mm", bias_region="right putamen").name == "near_4mm"
    assert Simba.configure("far_4mm", bias_region="right putamen").name == "far_4mm_bias_region78"
    assert Simba.configure("near_4mm", local_model="mode").name == "near_4mm_local_modelmode"
    flipped = Simba.configure("multi_4mm_counterfactual", flip="intensity_bias")
    assert flipped.name == "multi_4mm_counterfactual_flipintensity_bias"
    assert Simba.configure("sites_8mm", subjects=1817).name == "sites_8mm"
    assert Simba.configure("sites_8mm_counterfactual", flip="scanner").name == "sites_8mm_counterfactual"
    assert Simba.configure("sites_8mm", subjects=2000 - 183, sex_size=0.2).name == "sites_8mm_sex_size0.2"
    assert len({c.name for c in Simba.BUILDER_CONFIGS}) == len(Simba.BUILDER_CONFIGS)


@pytest.mark.parametrize(
    ("base", "options", "message"),
    [
        ("near", {"subjects": 40}, "does not read as"),
        ("near_4mm", {"subject": 40}, "has no setting 'subject'.*Did you mean 'subjects'"),
        ("near_4mm", {"subjects": 4}, "must be at least 8"),
        ("near_4mm", {"prevalence": 1.5}, "between 0 and 1"),
        ("multi_4mm", {"intensity_in_healthy": 0}, "intensity_in_healthy=0 must lie between 0 and 1"),
        ("none_4mm_counterfactual", {"subjects": 40}, "needs a bias to flip: choose near, far, intensity, both, multi"),
        ("nearby_4mm", {"seed": 1}, "scenario='nearby' is none of none, near, far, .*Did you mean 'near'"),
        ("near_4mm", {"subjects": "forty"}, "subjects='forty' must be a whole number"),
        ("near_4mm", {"subjects": 40.5}, "subjects=40.5 must be a whole number"),
        ("near_4mm", {"resolution": 2.5}, "resolution=2.5 must be a whole number"),
        ("near_4mm", {"counterfactual": "yes"}, "counterfactual='yes' must be true or false"),
        ("near_4mm", {"seed": -1}, "seed=-1 must be 0 to"),
        ("near_4mm", {"noise": -0.1}, "noise=-0.1 must be 0 or"),
        ("near_4mm", {"effect_width_mm": 0}, "effect_width_mm=0 must be a positive number"),
        ("near_4mm", {"subject_mm": float("nan")}, "subject_mm=nan must be 0 or"),
        ("near_4mm", {"contrast": 0}, "contrast=0 must be a positive number"),
        ("near_4mm", {"contrast": float("inf")}, "contrast=inf must be a positive number"),
        ("near_4mm", {"local_model": "pca"}, "local_model='pca' is none of expansion, mode"),
        ("near_4mm", {"local_model": "component"}, "local_model='component' needs velocity_model=pca"),
        ("near_4mm", {"velocity_model": "pca"}, "velocity_fields='' and velocity_model=pca go together"),
        ("near_4mm", {"velocity_fields": "/nowhere"}, "velocity_fields='/nowhere' and velocity_model=pca go together"),
        ("near_4mm", {"velocity_model": "pca", "velocity_fields": "/nowhere"}, "velocity_fields: no folder /nowhere"),
        ("near_4mm", {"velocity_model": "pca", "velocity_fields": "/nowhere", "velocity_share": 1.5}, "velocity_share=1.5 must be above 0, and 1 at most"),
        ("near_4mm", {"velocity_model": "pca", "velocity_fields": "/nowhere", "num_modes": 12}, "num_modes=12 is read only with velocity_model=process"),
        ("near_4mm", {"velocity_share": 0.9}, "velocity_share=0.9 is read only with velocity_model=pca"),
        ("near_4mm", {"disease_volume": 0.2}, "disease_volume=0.2 is read only with local_model=volume"),
        ("near_4mm", {"local_model": "volume", "disease_mm": 2}, "disease_mm=2 is read only with local_model=expansion or mode"),
        ("near_4mm", {"local_model": "volume", "effect_width_mm": 4}, "effect_width_mm=4 must be at least 6 at 4 mm with local_model=volume"),
        ("near_4mm", {"local_model": "volume", "bias_volume": -1}, "bias_volume=-1 must be 0 or a positive number"),
        ("near_4mm", {"variability": "shared"}, "variability='shared' is none of .*Did you mean 'shared_scalar'"),
        ("near_4mm", {"flip": "all"}, "flip='all' is for counterfactuals of multi"),
        ("near_4mm_counterfactual", {"flip": "intensity_bias"}, "flip='intensity_bias' is for counterfactuals of multi"),
        ("multi_4mm", {"flip": "all"}, "flip='all' is for counterfactuals"),
        ("near_4mm_counterfactual", {"flip": "scanner"}, "flip='scanner' is for counterfactuals of sites"),
        ("sites_8mm_counterfactual", {"flip": "bias"}, "flip='bias' is for counterfactuals of near, far"),
        ("sites_8mm_counterfactual", {"scanner_strength": 0}, "needs scanners to flip: scanner_strength is 0"),
        ("sites_8mm", {"subjects": 1818}, "subjects=1818 must be at least 8 and at most 1817"),
        ("sites_8mm", {"subjects": 7}, "subjects=7 must be at least 8 and at most 1817"),
        ("sites_8mm", {"prevalence": 0.3}, "prevalence=0.3 has no meaning in sites"),
        ("sites_8mm", {"bias_region": 21}, "bias_region='21' has no meaning in sites"),
        ("sites_8mm", {"validation_share": 0.6}, "validation_share=0.6 must be 0 to 0.5"),
        ("sites_8mm", {"scanner_strength": -1}, "scanner_strength=-1 must be 0 or a positive number"),
        ("near_4mm", {"sex_size": 0.2}, "sex_size=0.2 is only for sites"),
        ("near_4mm", {"bias_region": "right putamn"}, "Did you mean 'right putamen'"),
        ("near_4mm", {"bias_region": 99}, "no region has the label 99"),
        ("near_4mm", {"bias_region": 1.5}, "bias_region=1.5 must be text"),
        ("near_4mm", {"bias_region": "right insula"}, "bias_region='right insula' is the disease's own region"),
        ("near_4mm", {"template": "/nowhere/t.nii.gz"}, "labels='' and template go together"),
        ("near_4mm", {"label_names": "/nowhere/names.txt"}, "names the regions of labels=FILE"),
        ("near_4mm", {"template": "/nowhere/t.nii.gz", "labels": "/nowhere/l.nii.gz", "disease_region": 1, "bias_region": 2}, "no file /nowhere/t.nii.gz"),
        ("near_4mm", {"template": "/nowhere/t.nii.gz", "labels": "/nowhere/l.nii.gz"}, "has no names. Give the label's number"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(base, options, message):
    with pytest.raises(UserError, match=message):
        Simba.configure(base, **options)


def test_a_users_files_are_in_the_name_and_design_by_content_and_never_by_path(tmp_path):
    (tmp_path / "names.txt").write_text("21 left blob\n34 right blob\n")
    template, labels = map(str, write_pair(tmp_path))
    options = {"template": template, "labels": labels, "label_names": str(tmp_path / "names.txt")}
    config = Simba.configure("near_2mm", disease_region="left blob", bias_region=34, **options)
    name, _, digest = config.name.rpartition("_pair")
    assert name == "near_2mm_disease_region21_bias_region34" and len(digest) == 10
    design = config.design()
    assert design["template"] == design["labels"] == f"user:{digest}"
    assert (design["disease_region"], design["bias_region"]) == ("left blob", "right blob")
    assert str(tmp_path) not in json.dumps(design) + config.name + repr(config)
    by_number = Simba.configure(
        "near_2mm", disease_region=21, bias_region=34, template=template, labels=labels
    )
    assert by_number.name == config.name
    assert by_number.regions == {"disease": (21, "label 21"), "bias": (34, "label 34")}
