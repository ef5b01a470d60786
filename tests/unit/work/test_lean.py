"""Two executions of a lean sample overlap: whose output has the usual name, and that their texts never mix."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrun.engine.records import Claim
from mrun.engine.work.lean import Spool, _place


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(str(tmp_path / "1.out"))
    os.write(spool.fd, b"mine")
    yield spool
    spool.remove()
    assert not (tmp_path / "1.out").exists()


def place(spool: Spool, directory: Path, *, losses: int = 0, had: bool = False, **more: bool) -> dict[str, str]:
    """Place it; what is in the directory then, but for the spool."""
    target = directory / "a.out"
    flags = {"is_lost": False, "is_shared": False} | more
    _place(spool, str(target), Claim(9, "study", 0, 0, 1, 0, losses, 0), had=had, **flags)
    return {path.name: path.read_text() for path in directory.iterdir() if path.name.startswith("a.")}


def test_the_only_execution_has_the_usual_name_and_the_next_one_an_empty_file(spool: Spool, tmp_path: Path) -> None:
    assert place(spool, tmp_path) == {"a.out": "mine"}
    assert (tmp_path / "1.out").read_text() == ""
    os.write(spool.fd, b"next")
    assert (tmp_path / "a.out").read_text() == "mine"


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_further_execution_adds_to_what_is_there(spool: Spool, tmp_path: Path, is_shared: bool) -> None:
    (tmp_path / "a.out").write_text("first ")
    assert place(spool, tmp_path, had=True, is_shared=is_shared) == {"a.out": "first mine"}
    assert (tmp_path / "1.out").read_text() == ""


def test_who_was_lost_and_does_not_know_it_steps_aside(spool: Spool, tmp_path: Path) -> None:
    # Given that the one who took over has ended first
    (tmp_path / "a.out").write_text("theirs")
    assert place(spool, tmp_path) == {"a.out": "theirs", "a.out.lost-9": "mine"}


def test_who_took_over_moves_the_lost_one_aside(spool: Spool, tmp_path: Path) -> None:
    # Given that the one who was lost has ended in the meantime
    (tmp_path / "a.out").write_text("theirs")
    assert place(spool, tmp_path, losses=1) == {"a.out": "mine", "a.out.lost-9": "theirs"}


def test_who_knows_that_it_was_lost_never_takes_the_usual_name(spool: Spool, tmp_path: Path) -> None:
    assert place(spool, tmp_path, is_lost=True) == {"a.out.lost-9": "mine"}
