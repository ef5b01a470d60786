"""A file that is replaced is never seen in parts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mrun.engine.atomic_file import replaced_file


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replaced_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with replaced_file(path) as file:
            file.write(b"new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_who_reads_the_old_file_goes_on_with_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with path.open() as reader:
        with replaced_file(path) as file:
            file.write(b"new")
        assert reader.read() == "old"


def test_it_has_the_rights_that_were_asked_for(tmp_path: Path) -> None:
    for mode in (0o600, 0o700):
        with replaced_file(tmp_path / "file", mode) as file:
            file.write(b"x")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
