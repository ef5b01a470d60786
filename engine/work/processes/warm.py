"""Samples in warm shells: who runs in which, how to signal it, and how it ended.

A step asks for it (`warm: true`), and `steps/warm.py` refuses what a script could tell it by. A sample behaves as one
that was started cold. What differs is listed in docs/specs.md.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import time
from collections.abc import Mapping

from mrun.engine.errors import HandBackError
from mrun.engine.logging import log
from mrun.engine.plan.model import PlanStep
from mrun.engine.work.groups import signal_group
from mrun.engine.work.outcomes import Exit
from mrun.engine.work.processes.process import Order, Process, Script, Watcher
from mrun.engine.work.processes.warm_shell import WarmShell, quoted, setup_text

#: A signal that came before its sample was forked is tried again so often.
_RETRY_SIGNAL_S = 0.01
#: A status above it is a signal's, or a code's.
_SIGNAL_BASE = 128
#: What bash expands in the value of BASH_ENV.
_EXPANDED = frozenset(b"$`~\\")
#: No other directory, but one that is entered later is exported.
_NO_OLDPWD = b"unset OLDPWD\nexport OLDPWD\n"
#: dash loses about a hundred bytes for each sample; after so many samples another shell is started.
SAMPLES_MOST = 10_000
#: A shell that could not be started is left alone for so long.
_UNFIT_S = 60.0
#: Arithmetic, values in braces, constants, and files that may hold such: what bash may give up a line for.
_MAY_GIVE_UP = re.compile(
    r"\(\(|\$\[|\$\{(?!\w+\})|\w\[|(?<!\w)E?UID=|(?:^|[\s;&|(])\.\s|"
    r"(?<!\w)(?:let|readonly|declare|typeset|local|export|eval|source|shopt|read|unset)(?!\w)",
    re.MULTILINE,
)


def needs_whole_shell(step: PlanStep) -> bool:
    """Whether a script of that step may hold a mistake for which bash gives up a line, and a subshell the script.

    Then the subshell is made a shell of its own, which costs half as much again. dash gives up the script.
    """
    pieces = (*step.cmd, *(step.restart or ()))
    return any(may_give_up_line(piece) for piece in pieces if isinstance(piece, str))


def may_give_up_line(script: str) -> bool:
    """Whether there is anything in a script for which bash would go on with the next line."""
    return _MAY_GIVE_UP.search(script) is not None


def is_bash(shell: str) -> bool:
    """Whether the words behind `#!` mean bash, as bash."""
    return os.path.basename(shell.split()[-1]) == "bash"


class WarmShells:
    """The warm shells of one worker: as many as samples ran at once, of each kind."""

    def __init__(self, environment: Mapping[bytes, bytes], watcher: Watcher) -> None:
        # bash reads that file when it starts. Here each sample does, as if it had a shell of its own.
        self._environment = {name: value for name, value in environment.items() if name != b"BASH_ENV"}
        self._watcher = watcher
        self._idle: dict[str, list[WarmShell]] = {}
        #: Shells that could not be started, and when that may be tried again.
        self._unfit_until: dict[str, float] = {}
        self._numbers = itertools.count(1)

    def order(self, script: Script) -> Order | None:
        """Make all of a script that can be made before its turn.

        Returns:
            None if a warm shell can't do it: start the script cold.

        Raises:
            ValueError: there is a NUL in a name.
        """
        if is_bash(script.shell) and _EXPANDED.intersection(script.environment.get(b"BASH_ENV", b"")):
            return None
        number = next(self._numbers)
        return Order(number, script, self._text(script, number))

    def start(self, order: Order) -> WarmProcess | None:
        """Start a script in a shell that is free, or in a new one.

        Returns:
            None if that shell can't stay warm here: start the script cold.
        """
        shell = order.script.shell
        idle = self._idle.setdefault(shell, [])
        while idle:
            chosen = idle.pop()
            if (process := _begun(order, chosen, idle)) is not None:
                return process
        if time.monotonic() < self._unfit_until.get(shell, 0.0) or (fresh := self._open(shell)) is None:
            return None
        return _begun(order, fresh, idle)

    def close(self) -> None:
        """End the shells that are free. Nothing may run any more."""
        for idle in self._idle.values():
            while idle:
                idle.pop().discard()

    def _open(self, shell: str) -> WarmShell | None:
        try:
            return WarmShell(shell.split(), self._environment, self._watcher)
        except (OSError, HandBackError) as error:
            self._unfit_until[shell] = time.monotonic() + _UNFIT_S
            log.warning("warm_shell_refused", shell=shell, why=str(error), does="starts samples cold for a minute")
            return None

    def _text(self, script: Script, number: int) -> bytes:
        """What the subshell reads."""
        known, environment = self._environment, script.environment
        parts = [setup_text(number, script.directory, script.out, script.err, is_bash=is_bash(script.shell))]
        exports = [b"%b=%b" % (name, quoted(value)) for name, value in environment.items() - known.items()]
        if exports:
            parts.append(b"export %b\n" % b" ".join(exports))
        # A shell that has just started remembers no other directory than the one in its environment.
        parts.append(b"export OLDPWD=%b\n" % quoted(environment[b"OLDPWD"]) if b"OLDPWD" in environment else _NO_OLDPWD)
        if script.is_whole:
            parts.append(b"SHLVL=%d\n" % _next_level(environment))
        if is_bash(script.shell) and (first := environment.get(b"BASH_ENV")):
            parts.append(b"if [ -r %b ]; then . %b; fi\n" % (quoted(first), quoted(first)))
        parts.append(b". %b\n" % quoted(script.path))
        text = b"".join(parts)
        if b"\0" in text:
            raise ValueError("embedded null byte")
        return text


def _begun(order: Order, shell: WarmShell, idle: list[WarmShell]) -> WarmProcess | None:
    """Begin in a shell that is free, or let go of it if it is dead."""
    process = WarmProcess(order, shell, idle)
    if shell.begin(process, order.text, is_whole=order.script.is_whole, cpus=order.script.cpus):
        return process
    shell.discard()
    return None


class WarmProcess(Process):
    """A sample that a warm shell runs, or will: a process group of its own, whose leader is the subshell."""

    def __init__(
        self, order: Order, shell: WarmShell, idle: list[WarmShell], leader: WarmProcess | None = None
    ) -> None:
        super().__init__(ends_group=order.script.ends_group)
        self.shell, self._idle = shell, idle
        #: Behind which it runs.
        self._leader = leader
        #: Its shell is another's, when it has ended.
        self._is_followed = False
        self._order = order
        self._group: int | None = None
        #: Sends a signal again that came before there was a group.
        self._retry: asyncio.TimerHandle | None = None
        self._is_shell_killed = False

    @property
    def has_begun(self) -> bool:
        """Whether its files were opened, and its script may have been read."""
        return self._find_group() is not None

    def signal(self, number: int) -> None:
        """Signal the whole group; nothing happens if it is gone. One that comes before there is a group is repeated."""
        self._forget_retry()
        if self._end is not None:
            return
        self._is_asked_to_end |= number == signal.SIGTERM
        # Its script may have stopped the shell, which then would never tell that it has ended.
        self.shell.wake()
        if self.has_begun:
            self._signal_group(number)
        elif (child := self.shell.child()) is None and number == signal.SIGKILL:
            self._is_shell_killed = True
            self.shell.kill()
        # The child is about to open its files, and may not yet have become the leader of its group.
        elif child is None or not signal_group(child, number):
            self._retry = asyncio.get_running_loop().call_later(_RETRY_SIGNAL_S, self.signal, number)

    def may_be_followed_by(self, order: Order) -> bool:
        """Whether its shell can go on with that script by itself, and has nothing else to go on with."""
        script = order.script
        is_alike = not script.is_whole and script.shell == self._order.script.shell
        return is_alike and self.shell.count < SAMPLES_MOST and self.shell.may_take_next(script.cpus)

    def follow(self, order: Order) -> WarmProcess:
        """Hand over a script, with which its shell goes on by itself."""
        following = WarmProcess(order, self.shell, self._idle, self)
        if not self.shell.begin_next(following, order.text):
            raise HandBackError("A warm shell died while it ran a sample.")
        self._is_followed = True
        return following

    def take_back(self) -> bool:
        """It was to run behind another: it is not to. False: it has begun, or will at any moment."""
        if not self.shell.take_back(self):
            return False
        assert self._leader is not None
        self._leader._is_followed = False
        return True

    def close(self) -> None:
        """Forget it. If it still runs it is killed, and its shell with it."""
        shell, self._leader = self.shell, None
        if not isinstance(self._end, Exit):
            # First the shell: at the end of this one it would begin with what was handed over.
            shell.kill()
            self.signal(signal.SIGKILL)
            shell.discard()
            self._signal_group(signal.SIGKILL)
        elif self._is_followed:
            pass
        elif shell.is_dead or shell.count >= SAMPLES_MOST:
            shell.discard()
        else:
            self._idle.append(shell)
        self._forget_retry()

    def note_turn(self) -> None:
        """The sample before it has ended: it runs now."""
        self._began = time.monotonic()

    def note_status(self, status: bytes) -> None:
        """The shell says how it ended, or that it was stopped."""
        group = self._find_group()
        if status == b"stopped":
            if group is not None:
                self.shell.watch_stopped(group)
            return
        code = int(status)
        if code > _SIGNAL_BASE and not _is_code_in(self.shell.words_on(self._order.number), code):
            code = _SIGNAL_BASE - code
        if group is None and code >= 0:
            self._finish(HandBackError(f"A warm shell could not begin a sample: {_last_line(self.shell.hear())}."))
        else:
            self._finish(Exit(code, elapsed_ms=1000 * self.elapsed_s))
        self.shell.forget(self._order.number)
        self._had_rest = self._is_asked_to_end and self.has_left_others
        if self._ends_group and not self._is_asked_to_end:
            self._signal_group(signal.SIGKILL)

    def note_death(self) -> None:
        """The shell is gone. If there was a subshell, it has written its number by now, or never will."""
        self._signal_group(signal.SIGKILL)
        if self._is_shell_killed:
            self._finish(Exit(-signal.SIGKILL, elapsed_ms=1000 * self.elapsed_s))
        else:
            self._finish(HandBackError("A warm shell died while it ran a sample.", has_begun=self.has_begun))

    def _find_group(self) -> int | None:
        if self._group is None:
            self._group = self.shell.subshell_of(self._order.number)
        return self._group

    def _forget_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None


def _is_code_in(text: bytes, code: int) -> bool:
    """Whether the shell's line on its job says that it was a code: `[1]+  Exit 143`, `[1] + Done(143)`."""
    return re.search(rb"^\[\d+\].*\D%d\D" % code, text, re.MULTILINE) is not None


def _last_line(text: bytes) -> str:
    """Of errors. What comes before may be the shell's word on how the sample before ended."""
    lines = text.decode(errors="replace").split("\n")
    errors = (line.strip() for line in reversed(lines) if line.strip() and not line.startswith(("[", "order-")))
    return next(errors, "it did not say why")


def _next_level(environment: Mapping[bytes, bytes]) -> int:
    """How deep bash would say that it is nested."""
    try:
        return max(0, int(environment.get(b"SHLVL", b"0")) + 1)
    except ValueError:
        return 1
