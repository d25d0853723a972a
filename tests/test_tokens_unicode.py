"""The table of categories: that of Unicode 15.1, whatever the version of Python knows."""

import unicodedata

from quantreg.tokenization.categories import WHITESPACE, category, lowered, without_accent

ALL = range(0x110000)


def test_characters_that_this_python_knows_have_its_category():
    """Python 3.11 has Unicode 14 and others have later ones; no character changed its major category since."""
    known = [code for code in ALL if unicodedata.category(chr(code)) != "Cn" and category(code) != "U"]
    assert len(known) > 280_000
    assert [code for code in known if category(code) != unicodedata.category(chr(code))[0]] == []


def test_characters_of_unicode_15_are_assigned_and_those_of_unicode_16_are_not():
    assert [category(code) for code in (0x0ECE, 0x1E030, 0x1F6DC, 0x31350, 0x2EBF0, 0x2FFC)] == list("MLSLLS")
    assert [category(code) for code in (0x0378, 0x1C89, 0x10D40, 0x1FAE9, 0xE0080, 0x10FFFF)] == ["U"] * 6


def test_white_space_is_that_of_unicode():
    # Python also counts four separators of ASCII.
    assert {code for code in ALL if chr(code).isspace()} - {0x1C, 0x1D, 0x1E, 0x1F} == WHITESPACE


def test_unassigned_characters_have_no_lower_case_and_no_accents():
    assert (lowered(ord("Ä")), without_accent(ord("Ä")), without_accent(ord("한"))) == (ord("ä"), ord("A"), 0x1112)
    assert lowered(0x130) == ord("i")
    # Unicode 16 has a lower case for the one and a decomposition for the other.
    assert (lowered(0x10D50), without_accent(0x105C9)) == (0x10D50, 0x105C9)
