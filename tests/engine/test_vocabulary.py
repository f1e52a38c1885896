import pytest

from equipoise.engine import vocabulary


@pytest.mark.parametrize("text", ["", "  ", "NA", "n/a", "N/A ", "NaN", "null", "<NA>", " Unknown", "ｎ／ａ"])
def test_words_for_missing_in_any_case_and_with_blanks(text):
    assert vocabulary.is_missing(text) and vocabulary.may_be_missing(text)


@pytest.mark.parametrize("text", ["-", "?", ".", "missing", "not  reported", "Unk"])
def test_words_that_may_also_be_a_level_need_a_person(text):
    assert vocabulary.may_be_missing(text) and not vocabulary.is_missing(text)


@pytest.mark.parametrize("text", ["none", "no", "0", "+", "other", "Nathan"])
def test_levels_are_not_missing(text):
    assert not vocabulary.may_be_missing(text)


def test_every_word_is_listed_as_it_is_compared():
    for word in vocabulary.LIKELY_MISSING_WORDS:
        assert vocabulary.normalized(word) == word
