"""The files of a sample that is a batch job: those of any other, and two by which the next worker knows its job.

    <inst>.job     which job it is; without an id while it is being submitted
    <inst>.code    the job's last act: name of the execution, exit code, seconds that the script ran

Both name the execution that they are of: those of an earlier attempt say nothing about a later one. They are replaced
by rename, so that nobody reads half of one.
"""

from __future__ import annotations

import contextlib
import os

import msgspec

from mrun.engine.atomic_file import replaced_file
from mrun.engine.plan.places import JOURNAL_DIR
from mrun.engine.work.files.full import FullFiles, FullSample
from mrun.engine.work.files.way import ClaimedSample, write_script
from mrun.engine.work.outcomes import Exit

JOB_VERSION = 1
_WRAPPER_NAME = "job.sh"
#: What is submitted: one script for all samples of a study. `date` counts seconds: jobs are not short.
_WRAPPER = b"""\
#!/bin/sh
# Runs a sample's script as a batch job, and leaves its exit code to the worker that awaits it, or to the next one.
# $1 the script, $2 the file for the code, $3 the name of this execution
began=$(date +%s)
"$1"
code=$?
echo "$3 $code $(($(date +%s) - began))" > "$2.new" && mv -f "$2.new" "$2"
exit "$code"
"""


class JobRecord(msgspec.Struct, frozen=True):
    """Which job an execution is. `job` is its scheduler's id; empty: it is being submitted, or may have been."""

    name: str
    scheduler: str
    job: str = ""
    version: int = JOB_VERSION


class JobSample(FullSample, kw_only=True):
    """A sample that is a job, or is to be one. Nothing is made before it is known that no job may be writing."""

    @property
    def name(self) -> str:
        """The name of this execution, which no other has."""
        claim = self.sample.claim
        return f"mrun-{claim.study}-{claim.node}-{self.sample.number}-{claim.attempt}"

    @property
    def wrapper_path(self) -> str:
        """The path of what is submitted."""
        return f"{self.sample.workspace}/{JOURNAL_DIR}/{_WRAPPER_NAME}"

    @property
    def code_path(self) -> str:
        """Where the job leaves its exit code."""
        return f"{self._stem}.code"

    def enter(self) -> None:
        """Its job may run already. See `make`."""

    def make(self) -> FullSample:
        """Directory and scripts, and what is to be submitted. Raises OSError, and WorkspaceError for the sample."""
        made = FullFiles().prepare(self.sample)
        made.enter()
        if not os.path.exists(self.wrapper_path):
            write_script(self.wrapper_path, _WRAPPER)
        return made

    def record(self) -> JobRecord | None:
        """The job that this execution is, if it was ever to be one."""
        try:
            with open(self._record_path, "rb") as file:
                found = msgspec.json.decode(file.read(), type=JobRecord)
        except (OSError, msgspec.DecodeError):
            return None
        return found if found.name == self.name and found.version == JOB_VERSION else None

    def note(self, record: JobRecord) -> None:
        """Keep which job it is. Raises OSError."""
        with replaced_file(self._record_path) as file:
            file.write(msgspec.json.encode(record))

    def left(self) -> Exit | None:
        """What the job left, if it has ended by itself: its code as shells have it (128 + n: signal n)."""
        try:
            with open(self.code_path, encoding="utf-8", errors="replace") as file:
                name, code, seconds = file.read().split()
            return Exit(int(code), 1000 * float(seconds)) if name == self.name else None
        except (OSError, ValueError):
            return None

    def forget(self) -> None:
        """There is no such job, or it came to nothing. Raises nothing."""
        for path in (self._record_path, self.code_path):
            with contextlib.suppress(OSError):
                os.unlink(path)

    @property
    def _record_path(self) -> str:
        return f"{self._stem}.job"

    @property
    def _stem(self) -> str:
        return f"{self.directory}/{self.sample.text.instance_name}"


class JobFiles(FullFiles):
    """Full files, which are made when a sample's job is to be submitted."""

    def prepare(self, sample: ClaimedSample) -> JobSample:
        """Only names. See `JobSample.make`."""
        directory = sample.text.sample_directory(sample.number)
        script = f"{directory}/{sample.text.script_name()}"
        out, err = sample.stream_paths
        return JobSample(sample=sample, directory=directory, script=script, out=out, err=err, is_resumed=False)
