"""What a sample left is kept, whatever its script did to the directory."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mrun.engine.work.files.way import keep_within


async def test_directory_without_rights_has_them_for_a_moment(tmp_path: Path) -> None:
    # Given a directory that nobody may write to; as root may all the same, what is kept is refused once
    directory = tmp_path / "sample"
    directory.mkdir()
    directory.chmod(0o500)
    modes = []

    async def keep() -> None:
        modes.append(stat.S_IMODE(directory.stat().st_mode))
        if len(modes) == 1:
            raise PermissionError

    await keep_within(str(directory), str(tmp_path), keep)
    assert modes == [0o500, 0o700]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o500


async def test_directory_that_is_gone_is_made_again_but_no_workspace(tmp_path: Path) -> None:
    async def keep(directory: Path) -> None:
        (directory / "kept").touch()

    directory = tmp_path / "workspace" / "sample"
    with pytest.raises(FileNotFoundError, match="workspace"):
        await keep_within(str(directory), str(tmp_path / "workspace"), lambda: keep(directory))
    (tmp_path / "workspace").mkdir()
    await keep_within(str(directory), str(tmp_path / "workspace"), lambda: keep(directory))
    assert (directory / "kept").exists()
