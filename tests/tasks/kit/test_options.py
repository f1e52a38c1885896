import pytest

from equipoise.engine.errors import UserError
from equipoise.tasks.kit import options

OWN = {"group": "race", "seeds": options.Count(3), "steps": options.Count(None, least=5)}


def read(**given):
    return options.read("mine", given, OWN, {"subjects"}, "seeds=3, steps=N, subjects=N")


def test_what_is_not_given_has_its_default_and_settings_of_the_cohort_are_handed_on():
    assert read() == ({"group": "race", "seeds": 3, "steps": None}, {})
    assert read(steps=7, subjects="some") == ({"group": "race", "seeds": 3, "steps": 7}, {"subjects": "some"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sed": 1}, "mine has no 'sed'. Did you mean 'seeds'. It has: seeds=3"),
        ({"seeds": 0}, "seeds=0 must be a whole number above 0"),
        ({"seeds": True}, "must be a whole number"),
        ({"steps": 4}, "steps=4 must be a whole number above 4"),
        ({"steps": "many"}, "steps=many must be"),
    ],
)
def test_a_wrong_option_is_named(given, message):
    with pytest.raises(UserError, match=message.replace("?", ".")):
        read(**given)
