"""Calls of schedulers' programs: the one place in this room where processes are started. Always with a deadline."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

import anyio
from anyio.abc import ByteReceiveStream, Process

from mrun.engine.errors import LauncherAwayError, LauncherError
from mrun.launchers.schedulers import Output

#: A scheduler that has not answered by then is away: clients wait for it for minutes, or for ever.
CALL_TIMEOUT_S = 30.0


async def call(words: Sequence[str], environment: Mapping[str, str], *, timeout_s: float = CALL_TIMEOUT_S) -> Output:
    """Run a short command to its end, with nothing to read. A non-zero exit code is an answer like any other.

    Whether it had an effect is not known if this raises LauncherAwayError, or is cancelled.

    Raises:
        LauncherAwayError: no answer in time; it was killed, with all that it started.
        LauncherError: there is no such program.
    """
    try:
        process = await anyio.open_process(
            list(words), stdin=subprocess.DEVNULL, env=dict(environment), start_new_session=True
        )
    except OSError as error:
        hint = "Is this the right machine? Its directory has to be on the PATH."
        raise LauncherError(f"'{words[0]}' can't be started: {error.strerror}.", hint=hint) from error
    try:
        with anyio.fail_after(timeout_s):
            return await _answer(process)
    except TimeoutError as error:
        message = f"'{words[0]}' did not answer within {timeout_s:g} s."
        raise LauncherAwayError(message, hint="Its scheduler may be away, or busy.") from error
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _answer(process: Process) -> Output:
    """What it writes, and its exit code."""
    texts = {"out": b"", "err": b""}

    async def read(name: str, stream: ByteReceiveStream | None) -> None:
        if stream is not None:
            async for part in stream:
                texts[name] += part

    async with anyio.create_task_group() as streams:
        streams.start_soon(read, "out", process.stdout)
        streams.start_soon(read, "err", process.stderr)
    code = await process.wait()
    return Output(code, texts["out"].decode(errors="replace"), texts["err"].decode(errors="replace"))


async def _end(process: Process) -> None:
    """Nothing of it is left: a client that has become stuck is killed with its children."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.aclose()
