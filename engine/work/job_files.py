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

from mrun.engine.plan.places import JOURNAL_DIR
from mrun.engine.work.files import FullFiles, FullReady, Instance, Ready, write_script

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


class LeftCode(msgspec.Struct, frozen=True):
    """What a job told of its end: exit code as shells have it (128 + n: signal n), and how long the script ran."""

    code: int
    elapsed_s: float


class JobFiles(FullFiles):
    """Nothing is made before it is known that there is no job yet, which may be writing."""

    def prepare(self, instance: Instance) -> FullReady:
        """Only names. See `make`."""
        text = instance.text
        directory = text.sample_directory(instance.sample)
        stem = f"{directory}/{text.instance_name}"
        script = f"{directory}/{text.script_name()}"
        return FullReady(
            *(instance, directory, script, (), f"{stem}.out", f"{stem}.err"),
            is_resumed=False, ends_group=False, scripts=(),
        )  # fmt: skip

    def enter(self, ready: Ready) -> None:
        """Its job may run already. See `make`."""

    def make(self, ready: Ready) -> Ready:
        """Directory and scripts, and what is to be submitted. Raises OSError, and WorkspaceError for the sample."""
        made = super().prepare(ready.instance)
        super().enter(made)
        wrapper = wrapper_of(ready)
        if not os.path.exists(wrapper):
            # Several workers may do so at once: each renames a file of its own.
            own = f"{wrapper}.{ready.instance.claim.number}"
            write_script(own, _WRAPPER, is_again=False)
            os.rename(own, wrapper)
        return made

    def record(self, ready: Ready) -> JobRecord | None:
        """The job that this execution is, if it was ever to be one."""
        try:
            with open(_stem(ready) + ".job", "rb") as file:
                found = msgspec.json.decode(file.read(), type=JobRecord)
        except (OSError, msgspec.DecodeError):
            return None
        return found if found.name == job_name(ready) and found.version == JOB_VERSION else None

    def note(self, ready: Ready, record: JobRecord) -> None:
        """Keep which job it is. Raises OSError."""
        path = _stem(ready) + ".job"
        with open(f"{path}.new", "wb") as file:
            file.write(msgspec.json.encode(record))
        os.rename(f"{path}.new", path)

    def code(self, ready: Ready) -> LeftCode | None:
        """What the job left, if it has ended by itself."""
        try:
            with open(code_path(ready), encoding="utf-8", errors="replace") as file:
                name, code, seconds = file.read().split()
            return LeftCode(int(code), float(seconds)) if name == job_name(ready) else None
        except (OSError, ValueError):
            return None

    def forget(self, ready: Ready) -> None:
        """There is no such job, or it came to nothing. Raises nothing."""
        for path in (_stem(ready) + ".job", code_path(ready)):
            with contextlib.suppress(OSError):
                os.unlink(path)


def job_name(ready: Ready) -> str:
    """The name of an execution, which no other has."""
    claim = ready.instance.claim
    return f"mrun-{claim.study}-{claim.node}-{ready.instance.sample}-{claim.attempt}"


def wrapper_of(ready: Ready) -> str:
    """The path of what is submitted."""
    return f"{ready.instance.study.plan.workspace}/{JOURNAL_DIR}/{_WRAPPER_NAME}"


def code_path(ready: Ready) -> str:
    """Where a job leaves its exit code."""
    return _stem(ready) + ".code"


def _stem(ready: Ready) -> str:
    return f"{ready.directory}/{ready.instance.text.instance_name}"
