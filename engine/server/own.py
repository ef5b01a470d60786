"""The user's own server on this host: start it, find it, stop it.

One server per user, host and state directory. It answers on a unix socket, keeps its data in an append-only file and
outlives the command that started it. It is found through its record (`server_files.py`), and counts as ours when it
says that it runs from our configuration file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mrun.engine.errors import BrokerAwayError, BrokerError
from mrun.engine.server.binary import find_binary
from mrun.engine.server.files import (
    Listen,
    ServerHome,
    ServerRecord,
    free_port,
    listen_url,
    new_socket_path,
    other_access,
    parse_listen,
    publish_access,
    read_record,
    server_home,
    start_lock,
    withdraw_access,
    write_config,
    write_record,
)
from mrun.engine.settings import Secret, Settings, private_dir

#: How long a server may take until it is ready, and to end.
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
#: How long a server that accepts a connection may take to answer.
ANSWER_TIMEOUT_S = 2.0
#: Between two looks at a server that is starting or ending.
_POLL_S = 0.02
#: A log that has grown past this is set aside at the next start.
_LOG_MAX_BYTES = 10_000_000
_LOG_TAIL_LINES = 10
#: What the server sees of our environment: not MRUN_PASSWORD, for one.
_SERVER_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "TMPDIR")


class ServerFacts(msgspec.Struct, frozen=True):
    """A server of the user's that answers. `url` is its socket; `listen_url` is how other hosts reach it, if any."""

    url: str
    pid: int
    version: str
    binary: Path
    log_path: Path
    data_dir: Path
    started_now: bool
    listen_url: str | None = None
    password: Secret | None = None


class _Answer(msgspec.Struct, frozen=True):
    """What a server says of itself."""

    pid: int
    version: str
    config_path: str
    is_loading: bool


class _Unready(msgspec.Struct, frozen=True):
    """A server that lives and can't be used now; `reason` completes "it …"."""

    pid: int
    reason: str


class _Child(msgspec.Struct, frozen=True):
    """The server as we started it, and where in its log this start begins."""

    process: subprocess.Popen[bytes]
    log_offset_bytes: int


def start_own_server(settings: Settings, *, listen: str | None = None) -> ServerFacts:
    """Start the user's own server, or give the one that runs; it is ready when this returns.

    Any number of processes may call this at once: one of them starts it. It gets a session of its own and outlives the
    caller, unless the caller (or one of its parents) is a child subreaper that ends what it adopts.

    Args:
        settings: says where its directories are.
        listen: `HOST`, `HOST:PORT` or `:PORT` to serve other hosts as well, with a generated password; writes the
            access file.

    Raises:
        BrokerError: no server is installed, or it ended while it was starting, or it runs and does not listen so.
        BrokerAwayError: it lives and is not ready within `START_TIMEOUT_S`.
        SettingsError: a directory is not the user's alone.
        UsageError: `listen` can't be read.
    """
    wanted = parse_listen(listen) if listen is not None else None
    home = server_home(settings)
    is_strict = settings.durability == "strict"
    facts = _look(home)
    if isinstance(facts, ServerFacts):
        facts = _as_wanted(home, facts, wanted)
    else:
        private_dir(home.data_dir)
        with start_lock(home):
            running = _await_ready(home, None)
            facts = _as_wanted(home, running, wanted) if running else _start(home, wanted, is_strict=is_strict)
    if is_strict:
        flush_each_write(settings)
    return facts


def flush_each_write(settings: Settings) -> None:
    """Have the user's own server flush every change to its disk before it answers (`appendfsync always`).

    Until `mrun server stop`: also when it is started again because it was killed.

    Raises:
        BrokerError: it refuses, or none runs.
        BrokerAwayError: it does not answer.
    """
    home = server_home(settings)
    with start_lock(home):
        record, facts = read_record(home), find_own_server(settings)
        if record is None or facts is None:
            raise BrokerError("Your server on this host has ended.", hint="`mrun server start`.")
        try:
            with _client(_socket_of(facts), facts.password, ANSWER_TIMEOUT_S) as client:
                client.config_set("appendfsync", "always")
        except redis.exceptions.RedisError as error:
            raise BrokerError(f"Your server on this host does not flush each write: {error}.") from error
        write_record(home, msgspec.structs.replace(record, flushes_each_write=True))


def find_own_server(settings: Settings) -> ServerFacts | None:
    """The user's own server on this host if it is ready, None if there is none. Starts and changes nothing.

    Raises:
        BrokerAwayError: it lives, but is loading its data or does not answer.
    """
    home = server_home(settings)
    seen = _look(home)
    if isinstance(seen, _Unready):
        raise _unready_error(home, seen)
    return seen


def stop_own_server(settings: Settings) -> bool:
    """Ask the user's own server to write its data and end, and wait for that; False if none was running.

    It is asked over its socket and never signalled: a process id may have come round. Removes the access file if this
    server wrote it, also when the server was killed before.

    Raises:
        BrokerError: it refuses, for example because its disk is full.
        BrokerAwayError: it does not answer, or has not ended within `STOP_TIMEOUT_S`.
    """
    home = server_home(settings)
    if not home.data_dir.is_dir():
        return False
    with start_lock(home):
        record = read_record(home)
        seen = _look(home)
        if isinstance(seen, _Unready):
            raise _unready_error(home, seen)
        if seen is not None:
            _shut_down(home, seen)
        if record is not None and record.flushes_each_write:
            write_record(home, msgspec.structs.replace(record, flushes_each_write=False))
        withdraw_access(home, record)
        return seen is not None


# Look


def _look(home: ServerHome) -> ServerFacts | _Unready | None:
    """What runs on this data directory. Takes no lock: it may have changed when this returns."""
    record = read_record(home)
    unready: _Unready | None = None
    for socket_path in _socket_paths(home, record):
        answer = _ask(socket_path, record.password if record else None)
        if isinstance(answer, _Unready):
            unready = answer
        elif answer is not None and _is_ours(home, answer):
            if answer.is_loading:
                return _Unready(answer.pid, "is loading its data")
            return _facts(home, record, answer, socket_path)
        elif answer is not None and _was_ours(home, answer):
            unready = _Unready(answer.pid, f"has lost '{home.data_dir}', which somebody deleted")
    # Two servers on one append-only file would destroy it. One that does not answer may not have got as far as its
    # socket, may be stopped, or may have lost the socket to a cleaner of temporary files.
    if record is not None and _works_in(home.data_dir, record.pid):
        return unready or _Unready(record.pid, f"does not answer on '{record.socket_path}'")
    return unready


def _socket_paths(home: ServerHome, record: ServerRecord | None) -> list[Path]:
    """Where a server of this data directory may answer: where it was started, and where we would start it.

    The second is for one whose starter was killed before it wrote the record. A socket of another user is none: in a
    directory for all it could be an impostor's.
    """
    paths = [Path(record.socket_path)] if record else []
    paths += [directory / f"{home.short_name}.sock" for directory in home.runtime_dirs]
    return [path for path in dict.fromkeys(paths) if _is_own_socket(path)]


def _is_own_socket(path: Path) -> bool:
    with contextlib.suppress(OSError):
        facts = path.lstat()
        return stat.S_ISSOCK(facts.st_mode) and facts.st_uid == os.getuid()
    return False


def _ask(socket_path: Path, password: Secret | None) -> _Answer | _Unready | None:
    """None: nobody listens there; the socket was left by a server that was killed."""
    if not _is_listening(socket_path):
        return None
    try:
        with _client(socket_path, password, ANSWER_TIMEOUT_S) as client:
            server: dict[str, Any] = client.info("server")
            persistence: dict[str, Any] = client.info("persistence")
    except redis.exceptions.AuthenticationError:
        # Also seen for a moment when it was started between our reading of the record and now.
        return _Unready(0, f"does not take the password of its record on '{socket_path}'")
    except redis.exceptions.RedisError:
        return _Unready(0, f"does not answer on '{socket_path}'")
    return _Answer(
        pid=int(server["process_id"]),
        version=str(server.get("valkey_version") or server["redis_version"]),
        config_path=str(server.get("config_file", "")),
        is_loading=bool(persistence.get("loading")),
    )


def _is_listening(socket_path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWER_TIMEOUT_S)
        try:
            probe.connect(os.fsencode(socket_path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # Somebody does, who is too busy to accept.
            return True
    return True


def _client(socket_path: Path, password: Secret | None, timeout_s: float) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(socket_path),
        password=password.reveal() if password else None,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


def _is_ours(home: ServerHome, answer: _Answer) -> bool:
    with contextlib.suppress(OSError):
        return home.config_path.samefile(answer.config_path)
    return False


def _was_ours(home: ServerHome, answer: _Answer) -> bool:
    """Whether its configuration file was ours, and is gone. A second server beside it would split the work."""
    return Path(answer.config_path) == home.config_path


def _socket_of(facts: ServerFacts) -> Path:
    return Path(unquote(urlsplit(facts.url).path))


def _works_in(directory: Path, pid: int) -> bool:
    """Whether the process lives and works in the directory, where the system has /proc to say so."""
    with contextlib.suppress(OSError):
        return directory.samefile(f"/proc/{pid}/cwd")
    return False


def _facts(home: ServerHome, record: ServerRecord | None, answer: _Answer, socket_path: Path) -> ServerFacts:
    return ServerFacts(
        url=f"unix://{quote(str(socket_path))}",
        pid=answer.pid,
        version=answer.version,
        binary=Path(record.binary if record else ""),
        log_path=home.log_path,
        data_dir=home.data_dir,
        started_now=False,
        listen_url=record.listen_url if record else None,
        password=record.password if record else None,
    )


def _unready_error(home: ServerHome, unready: _Unready) -> BrokerAwayError:
    process = f" (process {unready.pid})" if unready.pid else ""
    return BrokerAwayError(
        f"Your server on this host{process} lives, but it {unready.reason}.",
        hint=f"Try again in a moment; its log is '{home.log_path}'. If it never answers, end that process yourself.",
    )


# Start


def _start(home: ServerHome, wanted: Listen | None, *, is_strict: bool) -> ServerFacts:
    """Under the lock, and nothing works in the data directory."""
    last = read_record(home)
    if wanted is None:
        withdraw_access(home, last)
    else:
        _check_other_access(home, last)
    record = _new_record(home, last, wanted)
    if is_strict or (last is not None and last.flushes_each_write):
        record = msgspec.structs.replace(record, flushes_each_write=True)
    write_config(home, record)
    # Before, with the password that it will ask for; and after, with its process, and at once, so that nobody starts
    # a second one if this process is killed while it waits.
    write_record(home, record)
    child = _spawn(home, record)
    record = msgspec.structs.replace(record, pid=child.process.pid)
    write_record(home, record)
    facts = _await_ready(home, child)
    if facts is None:
        raise _start_error(home, child)
    # It is left alone from here: Popen must not warn that it still runs.
    child.process.returncode = 0
    publish_access(home, record)
    return msgspec.structs.replace(facts, started_now=True)


def _new_record(home: ServerHome, last: ServerRecord | None, wanted: Listen | None) -> ServerRecord:
    record = ServerRecord(pid=0, socket_path=str(new_socket_path(home)), binary=str(find_binary(home, last)))
    if wanted is None:
        return record
    port = wanted.port or (last.listen.port if last and last.listen else 0) or free_port(wanted.host)
    listen = Listen(wanted.host, port)
    password = (last.password if last else None) or Secret(secrets.token_urlsafe(32))
    return msgspec.structs.replace(record, listen=listen, listen_url=listen_url(listen), password=password)


def _spawn(home: ServerHome, record: ServerRecord) -> _Child:
    try:
        if home.log_path.exists() and home.log_path.stat().st_size > _LOG_MAX_BYTES:
            home.log_path.replace(home.log_path.with_suffix(".log.old"))
        with home.log_path.open("ab") as log:
            # Before it writes: the two share the place in the file.
            offset_bytes = log.tell()
            process = subprocess.Popen(
                [record.binary, str(home.config_path)],
                cwd=home.data_dir,
                env={name: os.environ[name] for name in _SERVER_VARIABLES if name in os.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )
            return _Child(process, offset_bytes)
    except OSError as error:
        raise BrokerError(f"The server '{record.binary}' can't be started: {error.strerror}.") from error


def _await_ready(home: ServerHome, child: _Child | None) -> ServerFacts | None:
    """Wait for a server that lives; None when there is none, or no longer."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        seen = _look(home)
        if isinstance(seen, ServerFacts):
            return seen
        if child.process.poll() is not None if child else seen is None:
            return None
        if time.monotonic() > deadline:
            raise _unready_error(home, seen or _Unready(0, "does not answer"))
        time.sleep(_POLL_S)


def _start_error(home: ServerHome, child: _Child) -> BrokerError:
    with home.log_path.open("rb") as log:
        log.seek(child.log_offset_bytes)
        lines = log.read().decode(errors="replace").splitlines()
    tail = "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:])
    hint = f"The whole log is '{home.log_path}'."
    if "Address already in use" in tail:
        hint = "Choose another port, or none: `mrun server start --listen HOST`."
    elif "RDB format version" in tail:
        hint = f"A newer server wrote the data in '{home.data_dir}': start that one, or move the directory away."
    return BrokerError(
        f"Your server ended while it was starting, with code {child.process.returncode}. Its log ends:\n{tail}",
        hint=hint,
        where=str(home.log_path),
    )


# Listening to other hosts


def _as_wanted(home: ServerHome, facts: ServerFacts, wanted: Listen | None) -> ServerFacts:
    """The running server, if it listens where it was asked to."""
    if wanted is None:
        return facts
    record = read_record(home)
    if record is None or record.listen is None:
        fault = "does not listen to other hosts"
    elif wanted.host != record.listen.host or wanted.port not in (0, record.listen.port):
        fault = f"listens as '{record.listen_url}'"
    else:
        publish_access(home, record)
        return facts
    raise BrokerError(
        f"Your server on this host runs already (process {facts.pid}) and {fault}.",
        hint="`mrun server stop`, then start it with --listen again: the studies are kept.",
    )


def _check_other_access(home: ServerHome, last: ServerRecord | None) -> None:
    """One access file names one server: a second would cut off the workers of the first."""
    access = other_access(home, last)
    if access is None:
        return
    with contextlib.suppress(redis.exceptions.RedisError, ValueError):
        client = redis.Redis.from_url(
            access.url,
            password=access.password.reveal(),
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_connect_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        with client:
            client.ping()
        raise BrokerError(
            f"Another server of yours serves other hosts already: {access.url}.",
            hint=f"Run `mrun server stop` there first; '{home.access_path}' names one server.",
        )


# Stop


def _shut_down(home: ServerHome, facts: ServerFacts) -> None:
    client = _client(_socket_of(facts), facts.password, STOP_TIMEOUT_S)
    try:
        with client:
            # Without SAVE: its append-only file is complete, and is flushed to the disk before it ends.
            client.shutdown()
    except redis.exceptions.TimeoutError:
        raise _unready_error(home, _Unready(facts.pid, "does not end")) from None
    except redis.exceptions.RedisError as error:
        raise BrokerError(
            f"Your server on this host refuses to end: {error}.", hint=f"Its log, '{home.log_path}', says why."
        ) from error
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while not _has_ended(facts.pid):
        if time.monotonic() > deadline:
            raise _unready_error(home, _Unready(facts.pid, "does not end"))
        time.sleep(_POLL_S)


def _has_ended(pid: int) -> bool:
    # A child of this very process stays in the table until it is waited for.
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    try:
        os.kill(pid, 0)
        # A zombie has ended, too; whoever inherited it may be slow to reap it.
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, PermissionError):
        return True
    except FileNotFoundError:
        return Path("/proc/self").exists()  # gone meanwhile; or a system without /proc, which tells nothing
