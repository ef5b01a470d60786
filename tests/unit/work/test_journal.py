"""The journal is read as far as it was written."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrun.engine.errors import WorkspaceError
from mrun.engine.workspace.journal import Claimed, Header, JournalWriter, Record, Settled, Void, read_journal

RECORDS: list[Record] = [
    Header(1, "study", "worker", "host", 1.0),
    Claimed(7, 0, 10, 20, 0, 2.0),
    Settled(7, 10, ("finished", "failed"), (0, 1), (12, 13)),
    Void(7, 12),
]


def written(path: Path) -> bytes:
    header, *rest = RECORDS
    assert isinstance(header, Header)
    writer = JournalWriter(path, header)
    for record in rest:
        writer.write(record)
    writer.close()
    return path.read_bytes()


def test_every_record_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "w.journal"
    written(path)
    assert list(read_journal(path)) == RECORDS


def test_torn_last_record_is_cut_and_all_before_it_counts(tmp_path: Path) -> None:
    path = tmp_path / "w.journal"
    data = written(path)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        found = list(read_journal(path))
        assert found == RECORDS[: len(found)]
        assert len(found) < len(RECORDS)


@given(at=st.integers(0), byte=st.integers(0, 255))
def test_damage_never_makes_a_record_up(tmp_path_factory, at: int, byte: int) -> None:
    path = tmp_path_factory.mktemp("journal") / "w.journal"
    data = bytearray(written(path))
    data[at % len(data)] = byte
    path.write_bytes(data)
    found = list(read_journal(path))
    assert found == RECORDS[: len(found)]


def test_record_of_which_a_full_disk_took_a_part_is_taken_back(tmp_path: Path) -> None:
    # Given a file that may grow by a few bytes only
    header, claimed, settled, _ = RECORDS
    assert isinstance(header, Header)
    path = tmp_path / "journal"
    writer = JournalWriter(path, header)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            writer.write(claimed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    # When there is room again
    writer.write(settled)
    writer.close()
    # I expect what is written then to be read
    assert list(read_journal(path)) == [header, settled]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_journal_that_can_not_be_read_is_one_sentence(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "w.journal"
    make(path)
    with pytest.raises(WorkspaceError, match=r"w\.journal"):
        list(read_journal(path))
