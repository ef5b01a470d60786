"""The plan that is kept in the workspace, so that a study can be opened again when the server has forgotten it.

`mrun_info/study.mrun`, msgpack: version, id, run and the plan with its nodes. It lies where the scripts themselves
lie, and is as readable as they are.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from mrun.engine.errors import NotFoundError, WorkspaceError
from mrun.engine.plan.model import Plan
from mrun.engine.plan.places import JOURNAL_DIR

KEPT_VERSION = 1
_FILE = "study.mrun"


class KeptStudy(msgspec.Struct, frozen=True):
    """A study as its workspace knows it. `study` is the id of its first run; `run` counts from 1."""

    version: int
    study: str
    run: int
    plan: Plan

    @property
    def key(self) -> str:
        """What the server calls this run."""
        return run_key(self.study, self.run)


def run_key(study: str, run: int) -> str:
    """The first run is called as its study; later ones have their number behind it."""
    return study if run == 1 else f"{study}.{run}"


def keep(study: str, run: int, plan: Plan) -> None:
    """Write it: whole, or not at all.

    Raises:
        WorkspaceError: the workspace can't be written.
    """
    path = Path(plan.workspace, JOURNAL_DIR, _FILE)
    mine = path.with_name(f"{_FILE}.{os.getpid()}")
    try:
        mine.write_bytes(msgspec.msgpack.encode(KeptStudy(KEPT_VERSION, study, run, plan)))
        mine.rename(path)
    except OSError as error:
        raise WorkspaceError(f"'{path}' can't be written: {error.strerror}.") from error


def read_kept(workspace: str | Path) -> KeptStudy:
    """The study of a workspace.

    Raises:
        NotFoundError: it is no workspace of mrun.
        WorkspaceError: the file is damaged, or of another version.
    """
    path = Path(workspace, JOURNAL_DIR, _FILE)
    try:
        kept = msgspec.msgpack.decode(path.read_bytes(), type=KeptStudy)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"'{workspace}' is no workspace of a study: it has no '{JOURNAL_DIR}/{_FILE}'.",
            hint="Name the directory that `mrun queue` printed.",
        ) from error
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise WorkspaceError(f"'{path}' can't be read: {error}.", hint="Queue the study again.") from error
    if kept.version != KEPT_VERSION:
        raise WorkspaceError(f"'{path}' was written by another version of mrun.", hint="Use the version that wrote it.")
    # Where it lies now: it may have been moved, or be seen under another path on this host.
    plan = msgspec.structs.replace(kept.plan, workspace=str(Path(workspace).resolve()))
    return msgspec.structs.replace(kept, plan=plan)
