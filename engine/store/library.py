"""The server side as one function library: its text, and the two doors by which a move is called.

A move is a function of a library that the server keeps (`FUNCTION LOAD`). The library's name and those of its functions
carry a digest of the text, for names are global on a server and several versions of mrun may share it. A server that
does not know the function gets the library. Where that is refused (it is full, or its ACL forbids it), the same text
runs as a script.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import redis.asyncio
from redis.exceptions import NoPermissionError, NoScriptError, OutOfMemoryError, ResponseError

from mrun.engine.store.connect import translate_errors, url_of

#: Subjects, each after those that it uses; the moves follow, and the door.
_SUBJECTS = (
    *("schema", "base", "clock", "counters", "plan", "bits", "studies", "cleaning", "ready", "retries", "release"),
    *("claims", "workers", "todo"),
)
#: Moves that a full server refuses: they make it fuller, and nothing is lost without them.
_REFUSED_WHEN_FULL = ("submit", "commit", "grow", "alloc_add")
#: Names of libraries begin so.
LIBRARY_PREFIX = "mrun_"

_REGISTER = """
redis.register_function{
  function_name = '%s', flags = {%s}, callback = function(keys, args) return run('%s', keys, args) end}
"""

Word = str | int | float | bytes


def _files() -> Traversable:
    return resources.files("mrun.engine.store") / "lua"


@functools.cache
def moves() -> tuple[str, ...]:
    """The names of all moves."""
    texts = [file.read_text("utf-8") for file in (_files() / "verbs").iterdir()]
    words = [line.removeprefix("function verbs.").split("(")[0] for text in texts for line in text.splitlines()
             if line.startswith("function verbs.")]  # fmt: skip
    return tuple(sorted(words))


@functools.cache
def body() -> str:
    """What both doors share."""
    room = _files()
    parts = [room / f"{subject}.lua" for subject in _SUBJECTS]
    parts += sorted((room / "verbs").iterdir(), key=lambda file: file.name)
    return "\n".join(part.read_text("utf-8") for part in [*parts, room / "run.lua"])


def _flag(move: str) -> str:
    return "" if move in _REFUSED_WHEN_FULL else "allow-oom"


def script_text(move: str, text: str | None = None) -> str:
    """A move as a script. Tests give a changed body."""
    flags = _flag(move) and f" flags={_flag(move)}"
    return f"#!lua{flags}\n{body() if text is None else text}\nreturn run('{move}', KEYS, ARGV)\n"


class Library:
    """A text of the server side, with the names that it has there."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.name = f"{LIBRARY_PREFIX}{hashlib.sha1(text.encode()).hexdigest()[:16]}"
        doors = "".join(_REGISTER % (self.function(move), _flag(move) and f"'{_flag(move)}'", move) for move in moves())
        self.text = f"#!lua name={self.name}\n{text}{doors}"

    def function(self, move: str) -> str:
        """What a move is called on the server."""
        return f"{self.name}_{move}"

    @functools.cache  # noqa: B019  # there is one library in a process, which lives as long
    def script(self, move: str) -> tuple[str, str]:
        """The same as a script, and its digest."""
        text = script_text(move, self._text)
        return text, hashlib.sha1(text.encode()).hexdigest()


@functools.cache
def library() -> Library:
    """That of this version."""
    return Library(body())


async def count_libraries(client: redis.asyncio.Redis) -> int:
    """Of how many versions a server has the library; each is some 100 kB, and nobody removes one by itself.

    Raises as `translate_errors`.
    """
    with translate_errors(url_of(client)):
        return len(await client.function_list(f"{LIBRARY_PREFIX}*"))


class Door:
    """Calls moves on one server. Which of the two doors is open, the server's answers tell."""

    def __init__(self, client: redis.asyncio.Redis, used: Library | None = None) -> None:
        self._client, self._library = client, used or library()
        self._has_functions = True

    async def call(self, move: str, root: str, *arguments: Word) -> Any:
        """One move. Raises what redis-py raises."""
        if self._has_functions:
            try:
                return await self._by_function(move, root, *arguments)
            except _ClosedError as closed:
                # A full server may have room again, and an ACL may be changed; but that is not asked at each call.
                self._has_functions = closed.is_passing
        return await self._by_script(move, root, *arguments)

    async def _by_function(self, move: str, root: str, *arguments: Word) -> Any:
        words = ("FCALL", self._library.function(move), 1, root, *arguments)
        try:
            return await self._send(*words)
        except NoPermissionError as error:
            raise _ClosedError(is_passing=False) from error
        except ResponseError as error:
            if "Function not found" not in str(error):
                raise
        try:
            await self._send("FUNCTION", "LOAD", self._library.text)
        except (NoPermissionError, OutOfMemoryError) as error:
            raise _ClosedError(is_passing=isinstance(error, OutOfMemoryError)) from error
        except ResponseError as error:
            if "already exists" not in str(error):
                raise
        return await self._send(*words)

    async def _by_script(self, move: str, root: str, *arguments: Word) -> Any:
        text, digest = self._library.script(move)
        try:
            return await self._send("EVALSHA", digest, 1, root, *arguments)
        except NoScriptError:
            # EVAL also keeps the script. A server that was restarted, or flushed its scripts, gets it again.
            return await self._send("EVAL", text, 1, root, *arguments)

    async def _send(self, *words: Word) -> Any:
        return await self._client.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py has no type for it


class _ClosedError(Exception):
    """The door of functions is closed: for this call, or for this connection."""

    def __init__(self, *, is_passing: bool) -> None:
        super().__init__()
        self.is_passing = is_passing
