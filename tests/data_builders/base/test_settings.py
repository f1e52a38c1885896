import pytest

from equipoise.data_builders.base import settings
from equipoise.engine.errors import UserError


def test_a_fingerprint_is_of_contents_not_of_paths(tmp_path):
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(text)
    a, b, c = (settings.fingerprint(str(tmp_path / n)) for n in "abc")
    assert a == b != c and len(a) == 10
    with pytest.raises(UserError, match="no file"):
        settings.fingerprint(str(tmp_path / "d"))
