"""The protocol of whatever runs a sample's script. Slots know nothing else of processes.

A process ends with an `Exit`, or comes to no end of its own: then waiting for it raises the reason. Who waits is woken
through one future, so that the end of a process costs the event loop next to nothing.
"""

from __future__ import annotations

import abc
import asyncio
import signal
import time
from collections.abc import Mapping
from typing import ClassVar, Protocol

import msgspec

from mrun.engine.errors import MrunError
from mrun.engine.work.groups import signal_group
from mrun.engine.work.outcomes import Exit

#: Where a stream goes: a path, that is opened to append; or a descriptor.
Stream = str | int


class Watcher(Protocol):
    """Learns which process groups live, so that it can end them when the engine can't."""

    def began(self, group: int) -> None:
        """A process group lives."""

    def is_client(self, group: int) -> None:
        """It is the client of a scheduler, which passes its end on if it is asked to end."""

    def ended(self, group: int) -> None:
        """Its leader was reaped."""


class Script(msgspec.Struct, frozen=True):
    """A script to run, and all that belongs to it."""

    #: The words behind `#!`.
    shell: str
    path: str
    directory: str
    #: All of it, for a process that is started cold.
    environment: Mapping[bytes, bytes]
    out: Stream
    err: Stream
    #: What is left of its process group when it ends is killed.
    ends_group: bool = False
    #: A warm bash makes a shell of its own for it; see `needs_whole_shell`.
    is_whole: bool = False
    #: To which it is bound; (): to none.
    cpus: tuple[int, ...] = ()
    #: The command that starts it cold. The first word is a path, or is looked for on the PATH of `environment`.
    command: tuple[str, ...] = ()


class Order(msgspec.Struct, frozen=True):
    """A script as a process that stays takes it."""

    #: By which the process that stays names the script.
    number: int
    script: Script
    #: What the process reads.
    text: bytes


class Process(abc.ABC):
    """The execution of one script, from its start to its end. What does not apply to a way of running does nothing."""

    #: It goes on when its worker ends, and the worker that claims the sample next awaits it.
    outlives_worker: ClassVar[bool] = False

    def __init__(self, *, ends_group: bool = False) -> None:
        self._began = time.monotonic()
        self._ends_group = ends_group
        #: It was asked to end: what its first process leaves behind has some time to do so, too.
        self._is_asked_to_end = False
        #: Others of its group lived when it ended. While any of them does, the number is nobody else's.
        self._had_rest = False
        self._end: Exit | MrunError | None = None
        self._waiting: asyncio.Future[None] | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was started. For a scheduler's jobs and steps, the time in its queue is part of it."""
        return time.monotonic() - self._began

    @property
    def is_over(self) -> bool:
        """It has ended, or is none of this worker's any more."""
        return self._end is not None

    @property
    def has_begun(self) -> bool:
        """Whether its script may have done something."""
        return True

    @property
    def has_left_others(self) -> bool:
        """Whether processes of its group live on after it. Asking is a call of the system."""
        return self._signal_group(0)

    @property
    def has_rest(self) -> bool:
        """Whether processes of its group live on that lived when it ended, after it was asked to end."""
        self._had_rest = self._had_rest and self.has_left_others
        return self._had_rest

    async def wait_within(self, timeout_s: float) -> Exit | None:
        """Wait for its end, or so long; safe to cancel and to call again.

        Raises:
            HandBackError: it came to no end of its own, and does not run any more.
            LauncherError: nothing of its study can be started here.
        """
        if self._end is None:
            # A scope of anyio's does the same for any code within; here it would cost as much as all else that the end
            # of a sample needs of the loop.
            loop = asyncio.get_running_loop()
            waiting = self._waiting = loop.create_future()
            timer = loop.call_later(timeout_s, _wake, waiting)
            try:
                await waiting
            finally:
                timer.cancel()
        if isinstance(self._end, MrunError):
            raise self._end
        return self._end

    @abc.abstractmethod
    def signal(self, number: int) -> None:
        """Signal all of it; nothing happens if it is gone."""

    @abc.abstractmethod
    def close(self) -> None:
        """Forget it. If it still runs it is killed, unless it outlives its worker."""

    def end_rest(self) -> None:
        """Kill what lives of `has_rest`."""
        if self.has_rest:
            self._signal_group(signal.SIGKILL)

    def leave(self) -> None:  # noqa: B027 - what ends with its worker has nothing to do here
        """Let it go on without this worker, if it can."""

    def may_be_followed_by(self, order: Order) -> bool:
        """Whether what runs it goes on with that script by itself, when this one has ended."""
        return False

    def follow(self, order: Order) -> Process:
        """Hand over a script, with which what runs this one goes on by itself. It may be followed by it.

        Raises:
            OSError: there is no memory for its text.
            HandBackError: what runs this one is dead.
        """
        raise NotImplementedError

    def take_back(self) -> bool:
        """It was to run behind another: it is not to. False: it has begun, or will at any moment."""
        return False

    def _find_group(self) -> int | None:
        """The process group that it leads, once there is one."""
        return None

    def _signal_group(self, number: int) -> bool:
        """Signal its process group. False if there is none (yet, or any more). Number 0 only asks."""
        group = self._find_group()
        return group is not None and signal_group(group, number)

    def _finish(self, end: Exit | MrunError) -> None:
        """It has ended; what comes later does not count."""
        if self._end is None:
            self._end = end
            if self._waiting is not None:
                _wake(self._waiting)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
