import numpy as np
import pytest

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.frames import ranking
from tests.engine.metrics.frames.test_frame import CELLS, SCHEMA, table


def test_select_value():
    whole = table(CELLS)
    assert ranking.select_value(whole.frame, "accuracy", SCHEMA) == ((75 + 82 + 2) / 193, True)
    assert ranking.select_value(whole.frame, "worst_group:sensitivity:sex", SCHEMA) == (0.75, True)
    assert ranking.select_value(whole.frame, "worst_group:fpr:sex", SCHEMA) == (0.3, False)
    only_unknown = whole.frame[whole.frame["sex"] == "unknown"]
    assert np.isnan(ranking.select_value(only_unknown, "worst_group:sensitivity:sex", SCHEMA)[0])
    assert ranking.higher_is_better("loss") is False
    for name, words in (
        ("worst_group:sensitivity", "write worst_group:METRIC:ATTRIBUTE"),
        ("worst_group:sensitivity:sx", "Did you mean 'sex'"),
        ("worst_group:sensitivity:age", "is a number"),
        ("sensitivty", "Did you mean 'sensitivity'"),
    ):
        with pytest.raises(UserError, match=words):
            ranking.select_value(whole.frame, name, SCHEMA)
