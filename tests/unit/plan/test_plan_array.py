"""The grammar of `--array`: spans of ids, and never a list of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrun.engine.errors import UsageError
from mrun.engine.table.array import IDS_MOST, Array, Span, parse_array


def ids_of(array: Array) -> list[int]:
    return [number for span in array.spans for number in range(span.first, span.last + 1, span.step)]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("7", [7]),
        ("0", [0]),
        ("1-3", [1, 2, 3]),
        ("3-3", [3]),
        ("0-99:10", [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]),
        ("0-5:10", [0]),
        ("1,5,7-9", [1, 5, 7, 8, 9]),
        (" 9 , 1-2", [9, 1, 2]),
        ("0-4:2,1-3:2", [0, 2, 4, 1, 3]),
        ("007", [7]),
    ],
)
def test_array_means_ids_in_the_order_in_which_they_are_named(text: str, ids: list[int]) -> None:
    array = parse_array(text)
    assert (ids_of(array), array.count) == (ids, len(ids))


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "'' of the array", "1,5,7-9"),
        ("a", "'a' of the array", "1,5,7-9"),
        ("1-", "'1-' of the array", "0-99:10"),
        ("-1", "'-1' of the array", "0-99:10"),
        ("1,,2", "'' of the array", "1,5,7-9"),
        ("1:2", "'1:2' of the array", "0-99:10"),
        ("1 - 3", "'1 - 3' of the array", "1-100"),
        ("²", "'²' of the array", "1-100"),
        ("1-100%5", "'1-100%5' of the array", "workers' slots"),
        ("5-1", "range '5-1' of the array '5-1' is empty", "1-100"),
        ("1-5:0", "range '1-5:0' of the array", "0-99:10"),
        ("1-5,3", "names the id 3 twice", "every id once"),
        ("0-9:3,0-8:2", "names the id 0 twice", "every id once"),
        (f"0-{IDS_MOST}", "has 1,000,000,001 ids", "Split"),
        ("9" * 19, "neither a number nor a range", "1-100"),
    ],
)
def test_what_is_no_array_is_refused_with_the_grammar(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_array(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_huge_array_costs_nothing() -> None:
    assert parse_array(f"1-{IDS_MOST}").spans == (Span(1, IDS_MOST),)


SPANS = st.tuples(st.integers(0, 40), st.integers(0, 60), st.integers(1, 12))


@given(st.lists(SPANS, min_size=1, max_size=5))
def test_any_list_of_ranges_is_what_counting_gives_or_names_an_id_that_is_in_it_twice(
    spans: list[tuple[int, int, int]],
) -> None:
    text = ",".join(f"{first}-{first + length}:{step}" for first, length, step in spans)
    counted = [number for first, length, step in spans for number in range(first, first + length + 1, step)]
    if len(set(counted)) == len(counted):
        assert ids_of(parse_array(text)) == counted
        return
    with pytest.raises(UsageError, match="twice") as caught:
        parse_array(text)
    named = int(caught.value.message.split()[-2])
    assert counted.count(named) > 1
