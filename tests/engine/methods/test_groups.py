"""Groups are the known levels that have images."""

import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.methods import groups
from tests.engine.methods.tiny_methods import Rows


def test_groups_are_known_levels_with_images():
    split = Rows([0] * 4, sex=["F", "M", "unknown", "F"], site=["A", "B", "A", "never"])
    found = groups.trained(split, "sex*site")
    assert found.levels == ("F*A", "M*B")
    assert found.code(split).tolist() == [0, 1, -1, -1]
    with pytest.raises(UserError, match="no attribute 'sexx'. Did you mean 'sex'"):
        groups.trained(split, "sexx")
    with pytest.raises(UserError, match="'age' is a number"):
        groups.trained(split, "age")
    with pytest.raises(UserError, match=r"in 1 group\(s\) \(F\)"):
        groups.trained(Rows([0, 1], sex=["F", "unknown"]), "sex")
