"""Text of samples inside pictures."""

import pytest

from MMSA_ext.reporting.figures.wording import display_width, plain, wrapped


def test_a_dollar_sign_begins_no_formula():
    assert plain("a$_$1 \n b") == r"a\$_\$1 b"


def test_words_are_kept_whole():
    assert wrapped("one two three four", 9) == "one two\nthree\nfour"


def test_chinese_breaks_between_characters_and_keeps_its_order():
    text = "我最讨厌别人骗我，你怎么看？"  # noqa: RUF001 (Chinese punctuation)
    broken = wrapped(text, 10)
    assert broken.replace("\n", "") == text
    lines = broken.split("\n")
    assert len(lines) > 2
    assert all(display_width(line) <= 12 for line in lines)
    assert not any(line.startswith(("，", "？")) for line in lines)  # noqa: RUF001


def test_chinese_and_latin_words_in_one_text():
    assert wrapped("我喜欢 matplotlib 很多", 12) == "我喜欢\nmatplotlib\n很多"


def test_what_is_left_out_shows():
    assert wrapped("a b c d e f", 3, lines=2) == "a b\nc d …"


@pytest.mark.parametrize("text", ["", "   "])
def test_no_text(text):
    assert wrapped(text, 10) == ""
