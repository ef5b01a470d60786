"""Lean samples: whose output has the usual name when two executions overlap; what a directory tells that was made
before its sample's turn.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from mrun.engine.records import Claim
from mrun.engine.work.files.lean import Spool, _enter, _has_begun, _make_ahead, _put_stream


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

    async def go() -> None:
        await _put_stream(spool, str(target), Claim(9, "study", 0, 0, 1, 0, losses, 0), had=had, **flags)

    anyio.run(go)
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


def mode_of(directory: Path) -> int:
    return stat.S_IMODE(directory.stat().st_mode)


def test_a_directory_that_was_made_ahead_tells_of_no_execution_until_it_is_entered(tmp_path: Path) -> None:
    sample = tmp_path / "0"
    assert not _has_begun(str(sample))
    mode = _make_ahead(str(sample))
    assert sample.is_dir()
    assert not _has_begun(str(sample))
    assert _enter(str(sample), str(tmp_path), mode)
    assert _has_begun(str(sample))


def test_a_directory_that_was_made_ahead_ends_up_with_the_mode_of_any_other(tmp_path: Path) -> None:
    # Given a directory that hands its group down
    tmp_path.chmod(0o2775)
    other, sample = tmp_path / "other", tmp_path / "sample"
    other.mkdir()
    _enter(str(sample), str(tmp_path), _make_ahead(str(sample)))
    assert mode_of(sample) == mode_of(other)


def test_a_directory_that_its_worker_never_entered_serves_the_next_execution(tmp_path: Path) -> None:
    sample = tmp_path / "0"
    _make_ahead(str(sample))
    # When another worker takes over, which does not know who made it
    assert not _enter(str(sample), str(tmp_path), None)
    assert _has_begun(str(sample))
    assert not mode_of(sample) & stat.S_ISVTX


def test_a_directory_of_an_earlier_execution_is_not_made_ahead(tmp_path: Path) -> None:
    assert _enter(str(tmp_path / "0"), str(tmp_path), None)
    assert _make_ahead(str(tmp_path / "0")) is None
    assert _has_begun(str(tmp_path / "0"))


def test_a_directory_that_went_away_before_its_turn_is_made_again(tmp_path: Path) -> None:
    mode = _make_ahead(str(tmp_path / "0"))
    (tmp_path / "0").rmdir()
    assert _enter(str(tmp_path / "0"), str(tmp_path), mode)
    assert (tmp_path / "0").is_dir()
