"""How schedulers write lists of nodes, counts and ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrun.launchers.flux_jobs import decimal
from mrun.launchers.lists import expand_counts, expand_hosts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", (4,)),
        ("4(x2),8", (4, 4, 8)),
        ("72(x3)", (72, 72, 72)),
        ("", ()),
        ("4(x", ()),
        ("x", ()),
        ("1(x999999)", ()),
    ],
)
def test_counts(text, expected):
    assert expand_counts(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n1", ("n1",)),
        ("n[1-2,05-07],login", ("n1", "n2", "n05", "n06", "n07", "login")),
        ("r[1-2]c[0,3]", ("r1c0", "r1c3", "r2c0", "r2c3")),
        ("a,b-x,c1.site.org", ("a", "b-x", "c1.site.org")),
        ("", ()),
        ("n[1-x]", ()),
        ("n[1-99999999]", ()),
    ],
)
def test_hosts(text, expected):
    assert expand_hosts(text) == expected


@given(st.text(alphabet="n0159[],-()x ", max_size=30))
def test_no_list_is_an_error(text):
    assert isinstance(expand_hosts(text), tuple)
    assert isinstance(expand_counts(text), tuple)


def test_an_id_of_flux_in_decimals():
    # As flux-core 0.88 wrote that of job 999.
    assert decimal("JE") == 999
