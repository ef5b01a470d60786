"""What one worker is asked to be, and the words of `mrun work` that ask another process for the same."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec

from mrun.engine.settings import Settings
from mrun.engine.steps.workers import WorkerOrder


class WorkerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks of a worker. Empty or None: nothing.

    Attributes:
        study: only this one, and those that its steps queue.
        resources, lease_s: as the settings take them.
    """

    queues: tuple[str, ...] = ()
    name: str = ""
    slots: int | None = None
    resources: str | None = None
    lease_s: str | None = None
    study: str = ""
    walltime_s: float | None = None
    idle_exit_s: float | None = None
    is_exit_when_done: bool = False
    log_level: str = "info"


def with_order(request: WorkerRequest, order: WorkerOrder, settings: Settings) -> WorkerRequest:
    """The request, completed by what a spec says of the worker: the user's word comes first."""
    slots = request.slots or settings.slots or order.slots
    return msgspec.structs.replace(request, queues=order.queues, name=request.name or order.name, slots=slots)


def program_words() -> tuple[str, ...]:
    """This `mrun`: by its name, if that is what the PATH finds."""
    ours = Path(sys.executable).with_name("mrun")
    found = shutil.which("mrun")
    if found is not None and ours.exists() and Path(found).samefile(ours):
        return ("mrun",)
    return (str(ours),) if ours.exists() else (sys.executable, "-m", "mrun")


def worker_words(request: WorkerRequest, settings: Settings) -> tuple[str, ...]:
    """The words of one worker, behind `mrun`."""
    options = {
        "--slots": str(request.slots) if request.slots else None,
        "--name": request.name or None,
        "--study": request.study or None,
        "--walltime": written_s(request.walltime_s) if request.walltime_s is not None else None,
        "--idle-exit": written_s(request.idle_exit_s) if request.idle_exit_s is not None else None,
        "--resources": request.resources,
        "--lease": request.lease_s,
        "--log-level": request.log_level if request.log_level != "info" else None,
    }
    given = [word for option, value in options.items() if value is not None for word in (option, value)]
    return (
        *(("--namespace", settings.namespace) if settings.namespace != "mrun" else ()),
        *("work", "--queues", ",".join(request.queues)),
        *given,
        *(("--exit-when-done",) if request.is_exit_when_done else ()),
    )


def written_s(seconds: float) -> str:
    """A duration as an option takes it: to the millisecond, and no digit that is not needed."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
