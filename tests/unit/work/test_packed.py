"""The scratch of a packed sample is emptied, whatever is in it, and the worker's other duties go on meanwhile."""

from __future__ import annotations

from pathlib import Path

from mrun.engine.work.files.packed import Scratch
from tests.unit.work.turns import turns_during


async def test_many_files_are_deleted_by_turns(tmp_path: Path) -> None:
    # Given files at several depths, and links to what is not the sample's
    scratch = Scratch(0, str(tmp_path))
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "kept").touch()
    deep = Path(scratch.directory, "deep", "deeper")
    deep.mkdir(parents=True)
    (deep / "link").symlink_to(tmp_path / "others")
    (deep / "dangling").symlink_to("nowhere")
    for number in range(2000):
        Path(scratch.directory, "deep", str(number)).touch()
    turns = await turns_during(scratch.clear_by_turns())
    assert turns >= 5
    assert list(Path(scratch.directory).iterdir()) == []
    assert (tmp_path / "others" / "kept").exists()
    scratch.close()
