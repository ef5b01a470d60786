"""One warm shell: a shell that stays, and forks a subshell for each sample. It saves the exec, and the shell's start.

It has three pipes and no other descriptor, so that nothing of it can leak into a sample:

    stdin    a line for each sample: go
    stdout   a line back: the exit status
    stderr   what nobody waits for: the process id of the sample, once its files are open; what the shell has to say

What to do stands in a file in memory, which the subshell reads through /proc: directory, files, variables, script. So
texts of any length and with any characters pass, and the shell's slow `read` has one byte to read.

While a sample runs the next one can be handed over: its line waits in the pipe, its text in a second file, and the
shell begins with it by itself, without the engine. As long as the shell has not read that line the engine can read it
back: a line of one byte has one reader, so exactly one of them has it.

Job control (`set -m`) gives each sample its process group. dash has it only on a terminal: it is given a pseudo
terminal, and that is closed before the first sample; what stays is a session of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from mrun.engine.errors import HandBackError
from mrun.engine.work.groups import children_of
from mrun.engine.work.processes.process import Stream, Watcher
from mrun.engine.work.script_memory import ScriptMemory

#: A shell that is not ready within this time is not waited for.
_READY_WITHIN_S = 2.0
#: How long the engine waits for the subshell of a shell that it killed to say who it is.
_SETUP_WITHIN_S = 0.5
#: As much as a pipe holds.
_PIPE_BYTES = 65536

#: dash makes a terminal its own by opening it, as the leader of a session. The hang-up that follows must not end it.
_TERMINAL = "trap '' HUP\nexec 3<>{terminal} 3>&-\n"
#: The path is in a variable, for a shell that names its jobs shows their words, and numbers there would mislead.
#: A job that was stopped is not waited for any more by dash, until something else makes it look at its children.
_LOOP = """set -m
case $- in *m*) echo ready ;; *) echo refused ;; esac
read -r mrun_line
trap - HUP
mrun_path={path} mrun_other={other} mrun_kept=
while [ "$mrun_kept" ] || read -r mrun_line; do
    case $mrun_line in
        whole) ( exec "$mrun_path" ) & ;;
        *) ( . "$mrun_path" ) & ;;
    esac
    mrun_kept=$mrun_path mrun_path=$mrun_other mrun_other=$mrun_kept mrun_kept=
    wait $!
    mrun_code=$?
    if [ $mrun_code -gt 128 ]; then
        jobs >&2
        if kill -0 $! 2>/dev/null; then
            echo stopped
            while read -r mrun_line || exit; do
                case $mrun_line in
                    again) break ;;
                    drop) mrun_kept= ;;
                    *) mrun_kept=yes ;;
                esac
            done
            while kill -0 $! 2>/dev/null; do mrun_line=$(:); done
            wait $!
            mrun_code=$?
            jobs >&2
        fi
    fi
    echo $mrun_code
done
"""
#: The subshell says the order's number and its own when nothing of what is no fault of the sample can fail any more.
#: Where it has no variable for it (dash), it is the name of its only thread: dash reads a file byte by byte.
_SETUP = b"""cd -P %b || exit
exec </dev/null >>%b 3>&2 2>>%b || exit
echo order-%d /proc/self/task/%b >&3
exec 3>&-
set +m
unset mrun_line mrun_code mrun_path mrun_other mrun_kept
"""

#: What it says begins so.
_BEGUN, _NEXT = b"order-%d /proc/self/task/", b"\norder-"


class Listener(Protocol):
    """Hears what becomes of a sample that a shell runs."""

    def note_turn(self) -> None:
        """The sample before it has ended: it runs now."""

    def note_status(self, status: bytes) -> None:
        """The shell says how it ended, or that it was stopped."""

    def note_death(self) -> None:
        """The shell is gone, and the sample, if it had begun, has written its number."""


def setup_text(number: int, directory: str, out: Stream, err: Stream, *, is_bash: bool) -> bytes:
    """What a subshell does first. The directory by its physical name, as a shell that starts in it would have it."""
    process = b"$BASHPID" if is_bash else b"*"
    return _SETUP % (quoted(directory), _stream_word(out), _stream_word(err), number, process)


def quoted(text: str | bytes) -> bytes:
    """One word of the shell."""
    return b"'" + os.fsencode(text).replace(b"'", b"'\\''") + b"'"


class WarmShell:
    """A shell's process, its pipes, and the files in which it reads what to do. Runs one sample at a time."""

    def __init__(self, words: Sequence[str], environment: Mapping[bytes, bytes], watcher: Watcher) -> None:
        """Start it and wait until it is ready: some milliseconds.

        Raises:
            OSError: the kernel could not start it.
            HandBackError: it has no job control here, or did not answer in time.
        """
        #: What runs; None: nothing, or nobody wants to know.
        self.sample: Listener | None = None
        #: What it was handed over to run next.
        self._next: Listener | None = None
        #: Samples that it has run, or has been given.
        self.count = 0
        self.is_dead = False
        self._watcher = watcher
        self._rest = b""
        self._heard = b""
        self._cpus: tuple[int, ...] = ()
        self._stopped_fd: int | None = None
        #: What was stopped has ended, and the shell knows it.
        self._was_stopped = False
        #: What to do, and what to do next: the shell reads them by turns.
        self._texts = (ScriptMemory(), ScriptMemory())
        try:
            for memory in self._texts:
                memory.fill(b"")
                # A kernel that runs nothing from memory says so here.
                os.chmod(memory.path, 0o700)
            self._popen = _start(words, environment, self._texts)
        except BaseException:
            self._release_texts()
            raise
        self._go, self._status, self._speech = _pipes(self._popen)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._status, self._note)
        watcher.began(self._popen.pid)

    def begin(self, sample: Listener, text: bytes, *, is_whole: bool, cpus: tuple[int, ...]) -> bool:
        """Run a text in a subshell. Nothing may run. False: this shell is dead, and did nothing.

        Args:
            is_whole: bash makes a shell of its own of the subshell, without exec: that costs half as much again.
            cpus: to which the subshell is bound; (): to those that the engine has.
        """
        self.hear()
        self._heard = b""
        self._pin(cpus)
        if self.is_dead or not self._give(text, b"whole\n" if is_whole else b"\n"):
            return False
        self.sample = sample
        return True

    def may_take_next(self, cpus: tuple[int, ...]) -> bool:
        """Whether it can be given a text to go on with, to be bound to these CPUs."""
        return not self.is_dead and self._next is None and cpus == self._cpus

    def begin_next(self, sample: Listener, text: bytes) -> bool:
        """Run a text in a subshell as soon as what runs has ended, or now. It may. False: this shell is dead."""
        if not self._give(text, b"\n"):
            return False
        if self.sample is None:
            self.sample = sample
        else:
            self._next = sample
        return True

    def take_back(self, sample: Listener) -> bool:
        """Take back a sample that is next. False: the shell has begun with it, or will."""
        if self._next is not sample or self._was_stopped:
            return False
        # While a sample is stopped the shell reads all lines, and begins with nothing, until it reads `again`.
        if self._tell(b"drop\n") if self._stopped_fd is not None else self._read_back():
            self.count -= 1
            self._next = None
        return self._next is None

    def hear(self) -> bytes:
        """What it and its subshells wrote to stderr, without what nobody needs any more."""
        if self._speech >= 0:
            self._heard += _read_now(self._speech)
        return self._heard

    def subshell_of(self, order: int) -> int | None:
        """The process that has taken that order, if it has written so."""
        _, _, behind = self.hear().partition(_BEGUN % order)
        process, end, _ = behind.partition(b"\n")
        return int(process) if end else None

    def words_on(self, order: int) -> bytes:
        """What the shell wrote after it took that order, and before it took the next one."""
        return self.hear().partition(_BEGUN % order)[2].partition(_NEXT)[0]

    def forget(self, order: int) -> None:
        """That order was carried out: what comes behind its line may be of the next one."""
        _, start, behind = self._heard.partition(_BEGUN % order)
        if start:
            self._heard = behind.partition(b"\n")[2]

    def _give(self, text: bytes, line: bytes) -> bool:
        self._texts[self.count % 2].fill(text)
        self.count += 1
        return self._tell(line)

    def _read_back(self) -> bool:
        with contextlib.suppress(OSError):
            pipe = os.open(f"/proc/{self._popen.pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return os.read(pipe, 1) != b""
            finally:
                os.close(pipe)
        return False

    def _pin(self, cpus: tuple[int, ...]) -> None:
        """The shell waits for its line: it forks nothing before it has the affinity that the subshell is to have."""
        if cpus == self._cpus:
            return
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(self._popen.pid, cpus or os.sched_getaffinity(0))
        self._cpus = cpus

    def child(self) -> int | None:
        """Its subshell, if it has forked one."""
        with contextlib.suppress(OSError):
            return next(iter(children_of(self._popen.pid)), None)
        return None

    def watch_stopped(self, pid: int) -> None:
        """The end of a stopped job is no news to a shell: so hear of that, and let the shell look again."""
        try:
            self._stopped_fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._tell_ended()
            return
        self._loop.add_reader(self._stopped_fd, self._note_end_of_stopped)

    def wake(self) -> None:
        """Let the shell alone go on, if it was stopped."""
        self._popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the shell alone."""
        self._popen.kill()

    def discard(self) -> None:
        """Kill it, and let go of all that belongs to it, but for what it wrote. A second call does nothing."""
        if self._speech < 0:
            return
        if not self.is_dead:
            self._note_death()
        self._popen.kill()
        self._heard += _read_until_closed(self._speech)
        self._speech = -1
        _close(self._popen)
        self._release_texts()
        self._watcher.ended(self._popen.pid)

    def _release_texts(self) -> None:
        for memory in self._texts:
            memory.release()

    def _tell(self, line: bytes) -> bool:
        try:
            os.write(self._go, line)
        except BrokenPipeError:
            return False
        return True

    def _note(self) -> None:
        data = _read_now(self._status)
        if not data:
            self._note_death()
            ended, self.sample, following, self._next = self.sample, None, self._next, None
            for sample in filter(None, (ended, following)):
                sample.note_death()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._note_status(line)

    def _note_status(self, status: bytes) -> None:
        ended = self.sample
        if status != b"stopped":
            self.sample, self._next, self._was_stopped = self._next, None, False
        if ended is not None:
            ended.note_status(status)
        if status != b"stopped" and self.sample is not None:
            self.sample.note_turn()

    def _note_death(self) -> None:
        self.is_dead = True
        self._loop.remove_reader(self._status)
        self._forget_stopped()

    def _note_end_of_stopped(self) -> None:
        self._forget_stopped()
        self._tell_ended()

    def _tell_ended(self) -> None:
        self._was_stopped = True
        self._tell(b"again\n")

    def _forget_stopped(self) -> None:
        if self._stopped_fd is not None:
            self._loop.remove_reader(self._stopped_fd)
            os.close(self._stopped_fd)
            self._stopped_fd = None


def _start(
    words: Sequence[str], environment: Mapping[bytes, bytes], texts: Sequence[ScriptMemory]
) -> subprocess.Popen[bytes]:
    loop = _LOOP.format(path=texts[0].path, other=texts[1].path)
    if os.path.basename(words[-1]) == "bash":
        popen = _popen((*words, "-c", loop), environment)
        _await_ready(popen)
    else:
        controller, terminal = os.openpty()
        try:
            head = _TERMINAL.format(terminal=os.ttyname(terminal))
            popen = _popen((*words, "-c", head + loop), environment, has_session=True)
            _await_ready(popen)
        finally:
            os.close(terminal)
            os.close(controller)
    os.write(_pipes(popen)[0], b"\n")
    return popen


def _popen(
    words: Sequence[str], environment: Mapping[bytes, bytes], *, has_session: bool = False
) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        words,
        bufsize=0,
        cwd="/",
        env=environment,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        start_new_session=has_session,
        process_group=None if has_session else 0,
    )


def _await_ready(popen: subprocess.Popen[bytes]) -> None:
    _, status, speech = _pipes(popen)
    answers = select.poll()
    answers.register(status, select.POLLIN)
    if answers.poll(1000 * _READY_WITHIN_S) and _read_now(status) == b"ready\n":
        return
    popen.kill()
    text = _read_until_closed(speech)
    _close(popen)
    raise HandBackError(f"It has no job control here: {text.decode(errors='replace').strip() or 'it did not answer'}")


def _pipes(popen: subprocess.Popen[bytes]) -> tuple[int, int, int]:
    """Its stdin, stdout and stderr; the last two do not block."""
    assert popen.stdin is not None
    assert popen.stdout is not None
    assert popen.stderr is not None
    go, status, speech = popen.stdin.fileno(), popen.stdout.fileno(), popen.stderr.fileno()
    os.set_blocking(status, False)
    os.set_blocking(speech, False)
    return go, status, speech


def _close(popen: subprocess.Popen[bytes]) -> None:
    """Reap a shell that was killed, and close its pipes."""
    popen.wait()
    for pipe in (popen.stdin, popen.stdout, popen.stderr):
        if pipe is not None:
            pipe.close()


def _stream_word(stream: Stream) -> bytes:
    return quoted(stream) if isinstance(stream, str) else b"/proc/%d/fd/%d" % (os.getpid(), stream)


def _read_now(fd: int) -> bytes:
    """What a pipe holds; nothing if it is empty, or closed."""
    try:
        return os.read(fd, _PIPE_BYTES)
    except BlockingIOError:
        return b""


def _read_until_closed(fd: int) -> bytes:
    """What a pipe holds when its last writer has gone, or the patience with it."""
    deadline = time.monotonic() + _SETUP_WITHIN_S
    news = select.poll()
    news.register(fd, select.POLLIN)
    text = b""
    while news.poll(max(0.0, 1000 * (deadline - time.monotonic()))) and (data := _read_now(fd)):
        text += data
    return text
