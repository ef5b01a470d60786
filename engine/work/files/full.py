"""`files: full`: everything that Merlin's users know. Scripts, output and marker are in the sample's directory."""

from __future__ import annotations

import contextlib
import os
from functools import partial

from mrun.engine.work.files.way import (
    ClaimedSample,
    SampleFiles,
    keep_within,
    make_directory,
    move_aside,
    write_script,
)

MARKER = "MERLIN_FINISHED"
_OPEN_MARKER = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC


class FullSample(SampleFiles, kw_only=True):
    """A sample with scripts of its own."""

    #: Path and text of each.
    scripts: tuple[tuple[str, bytes], ...] = ()

    def enter(self) -> None:
        """Directory and scripts. An execution that was lost and may still write keeps its own .out and .err."""
        sample = self.sample
        is_again = not make_directory(self.directory, sample.workspace)
        if is_again:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.directory}/{MARKER}")
            if sample.may_have_started:
                for path in sample.stream_paths:
                    move_aside(path, sample.claim.number)
        for path, text in self.scripts:
            write_script(path, text, is_again=is_again)

    async def keep(self, code: int, *, is_finished: bool, is_lost: bool, is_shared: bool) -> None:
        """Leave the empty file that users' own scripts look for."""
        if is_finished:
            leave_marker = partial(_leave_marker, f"{self.directory}/{MARKER}")
            await keep_within(self.directory, self.sample.workspace, leave_marker)


class FullFiles:
    """Files in the samples' directories. That .out is there says that an execution began."""

    def prepare(self, sample: ClaimedSample) -> FullSample:
        """The scripts' texts."""
        text = sample.text
        directory = text.sample_directory(sample.number)
        out, err = sample.stream_paths
        is_resumed = sample.resumes or (sample.may_have_started and os.path.exists(out))
        script = f"{directory}/{text.script_name()}"
        scripts = [(script, sample.script())]
        if text.step.restart is not None:
            restart = f"{directory}/{text.script_name(is_restart=True)}"
            scripts.append((restart, sample.script(is_restart=True)))
            script = restart if is_resumed else script
        return FullSample(
            sample=sample, directory=directory, script=script, out=out, err=err, is_resumed=is_resumed,
            scripts=tuple(scripts),
        )  # fmt: skip

    def close(self) -> None:
        """There is nothing to close."""


async def _leave_marker(path: str) -> None:
    os.close(os.open(path, _OPEN_MARKER, 0o666))
