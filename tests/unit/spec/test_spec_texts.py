"""The conversions of single texts, one row per form."""

from __future__ import annotations

import pytest

from mrun.engine.nearest import nearest_hint
from mrun.engine.spec.model import Text
from mrun.engine.spec.problems import quoted
from mrun.engine.spec.texts import is_walltime, normalise_number, parse_number, parse_whole

WHOLE = {
    "0": 0, "7": 7, "-3": -3, "+3": 3, "1_000": 1000, "0x10": 16, "0XF": None, "0b101": 5, "0o17": 15,
    "010": None, "08": None, "00": None, "": None, " 1": None, "1.0": None, "1e3": None, "1:30": None,
    "one": None, "_1": None, "0x": None, "0x_": None, "1_": 1, "²": None, "٣": None, "9" * 5000: None,
}  # fmt: skip


@pytest.mark.parametrize(("text", "number"), WHOLE.items(), ids=lambda value: str(value)[:10])
def test_a_whole_number_is_one_of_yaml_1_1(text, number):
    assert parse_whole(text) == number


NUMBERS = {
    "1": 1.0,
    "0x10": 16.0,
    "1_000": 1000.0,
    "2.5": 2.5,
    ".5": 0.5,
    "1e-3": 0.001,
    "-1": -1.0,
    "inf": None,
    "nan": None,
    "": None,
    "a": None,
}


@pytest.mark.parametrize(("text", "number"), NUMBERS.items())
def test_a_number_is_finite(text, number):
    assert parse_number(text) == number


NORMALISED = {
    ".75": "0.75", "1.50": "1.5", "-1.50": "-1.5", "2.": "2.0", "1.0e+3": "1000.0", "1.5e-7": "1.5e-07",
    "0x10": "16", "0b11": "3", "0o10": "8", "1_000": "1000", "1_0.5_0": "10.5", "+7": "7", "-0": "0",
    "0.0": "0.0", "010": "10", "08": "8", ".inf": "inf", "-.INF": "-inf", ".NaN": "nan", "1e3": "1e3",
    "1e-3": "1e-3", "1.0e3": "1.0e3", "10:30": "10:30", "12345678901234567890": "12345678901234567890",
    "9" * 5000: "9" * 5000,
}  # fmt: skip


@pytest.mark.parametrize(("text", "normal"), NORMALISED.items(), ids=lambda value: str(value)[:10])
def test_a_number_is_normalised_as_merlin_prints_it(text, normal):
    assert normalise_number(text) == normal
    assert normalise_number(normal) == normal


@pytest.mark.parametrize("text", ["0", "30", "3600", "1:30", "01:30:00", "1:02:03:04", "100:00:00"])
def test_walltimes(text):
    assert is_walltime(text)


@pytest.mark.parametrize("text", ["", ":", "1:", ":30", "1:2:3:4:5", "1h", "-1", "1.5", " 1", "1:30\n", "٣"])
def test_what_is_no_walltime(text):
    assert not is_walltime(text)


def test_a_quoted_value_is_short_and_on_one_line():
    assert quoted("a\nb") == "'a\\nb'"
    assert len(quoted("x" * 1000)) == 62


def test_a_hint_names_the_nearest_word_or_all():
    assert nearest_hint("DEPENDS", ["depends", "cmd"]) == "Did you mean 'depends'?"
    assert nearest_hint("zzz", ["b", "a"]) == "Known here: a, b."
    assert nearest_hint("zzz", []) == ""


LOCATED = [
    (Text("abc", 3, 5), 2, (3, 7)),
    (Text("a\nbc\n", 3, 5, is_block=True), 3, (4, 6)),
    (Text("a\nbc", 3, 5), 3, (4, 2)),
]


@pytest.mark.parametrize(("text", "offset", "place"), LOCATED)
def test_a_character_of_a_text_is_located(text, offset, place):
    assert text.locate(offset) == place
