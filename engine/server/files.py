"""The files of the user's own server: its record, its configuration, its lock, and the access file for other hosts.

    state_dir/server/<host>/   server.json  server.conf  server.log  start.lock  appendonlydir/
    runtime_dir/               server-<digest>.sock  server-<digest>.lock
    config_dir/                access.toml (only while it serves other hosts)

What holds a password is readable by the user alone. Files are replaced as a whole: a reader sees the old or the new.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from mrun.engine.atomic_file import replaced_file
from mrun.engine.errors import BrokerAwayError, BrokerError, SettingsError, UsageError
from mrun.engine.settings import Secret, Settings, private_dir, temporary_runtime_dir

#: The file that tells other hosts how to reach a server, in the user's configuration directory.
ACCESS_FILE = "access.toml"
#: How long to wait for another process that starts or stops the server: its 30 s, and some.
LOCK_TIMEOUT_S = 45.0
_LOCK_POLL_S = 0.02
#: Socket addresses hold 104 bytes on macOS and 108 on Linux, with a zero at the end.
_SOCKET_PATH_MAX_BYTES = 100


class Listen(msgspec.Struct, frozen=True):
    """Where to listen for other hosts: an empty host means everywhere, port 0 that mrun chooses."""

    host: str
    port: int


class ServerRecord(msgspec.Struct, frozen=True):
    """`server.json`: the last server that was started on this data directory. It is kept when the server ends."""

    pid: int
    socket_path: str
    binary: str
    listen: Listen | None = None
    listen_url: str | None = None
    #: Kept for the next start: workers on other hosts find the server again after it was killed.
    password: Secret | None = None
    #: Kept like the password: workers that count on it do not hear that the server was started again.
    flushes_each_write: bool = False
    format: Literal[1] = 1


class Access(msgspec.Struct, frozen=True):
    """The content of the access file."""

    url: str
    password: Secret


class ServerHome(msgspec.Struct, frozen=True):
    """Where the files are. Making one touches nothing."""

    data_dir: Path
    runtime_dirs: tuple[Path, ...]
    access_path: Path

    @property
    def record_path(self) -> Path:
        return self.data_dir / "server.json"

    @property
    def config_path(self) -> Path:
        return self.data_dir / "server.conf"

    @property
    def log_path(self) -> Path:
        return self.data_dir / "server.log"

    @property
    def short_name(self) -> str:
        """Tells servers of different state directories apart that share a runtime directory."""
        return "server-" + hashlib.blake2b(os.fsencode(self.data_dir), digest_size=4).hexdigest()


def server_home(settings: Settings) -> ServerHome:
    """The files of the user's server on this host."""
    # A host's name becomes a file's name; the kernel allows a slash in it.
    host = socket.gethostname().replace("/", "_") or "localhost"
    runtime_dirs = (settings.runtime_dir.absolute(), temporary_runtime_dir(os.environ))
    return ServerHome(
        data_dir=settings.state_dir.absolute() / "server" / host,
        runtime_dirs=tuple(dict.fromkeys(runtime_dirs)),
        access_path=settings.config_dir.absolute() / ACCESS_FILE,
    )


# The record


def read_record(home: ServerHome) -> ServerRecord | None:
    """The record, None if no server was ever started here."""
    try:
        return msgspec.json.decode(home.record_path.read_bytes(), type=ServerRecord, dec_hook=_decode_secret)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        raise BrokerError(
            f"The record of your server, '{home.record_path}', can't be read.",
            hint="A newer mrun may have written it. If no server of yours runs on this host, remove it.",
            where=str(home.record_path),
        ) from None


def write_record(home: ServerHome, record: ServerRecord) -> None:
    """Replace the record."""
    write_private(home.record_path, msgspec.json.encode(record, enc_hook=_encode_secret))


def _decode_secret(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise NotImplementedError(f"{kind} is not a type of these files")


def _encode_secret(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(f"{type(value)} is not a type of these files")


def write_private(path: Path, content: bytes) -> None:
    """Replace a file by one that the user alone can read; after a crash there is the old or the new, whole.

    Raises:
        BrokerError: it can't be written.
    """
    try:
        with replaced_file(path, 0o600) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BrokerError(f"'{path}' can't be written: {error.strerror}.", where=str(path)) from error


# The configuration


def write_config(home: ServerHome, record: ServerRecord) -> None:
    """Write the server's configuration: here, and not on its command line, because of the password."""
    lines = [
        "# Written by mrun at each start of the server: changes are lost.",
        f"port {record.listen.port if record.listen else 0}",
        f"unixsocket {_quoted(record.socket_path)}",
        "unixsocketperm 700",
        f"dir {_quoted(str(home.data_dir))}",
        "daemonize no",
        # The append-only file alone keeps the data: snapshots would write everything again and again.
        'save ""',
        "appendonly yes",
        f"appendfsync {'always' if record.flushes_each_write else 'everysec'}",
        "aof-use-rdb-preamble yes",
        # A full server must refuse, never forget.
        "maxmemory-policy noeviction",
    ]
    if record.listen is not None:
        lines.append(f"bind {_quoted(record.listen.host)}" if record.listen.host else "bind * -::*")
    if record.password is not None:
        lines.append(f"requirepass {_quoted(record.password.reveal())}")
    write_private(home.config_path, os.fsencode("\n".join(lines) + "\n"))


def _quoted(text: str) -> str:
    """A text as the server's configuration reads it, whatever characters a path may have."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


# Sockets


def new_socket_path(home: ServerHome) -> Path:
    """Where a new server puts its socket: the first runtime directory that is short enough, checked to be private."""
    for directory in home.runtime_dirs:
        path = directory / f"{home.short_name}.sock"
        if len(os.fsencode(path)) < _SOCKET_PATH_MAX_BYTES:
            private_dir(directory)
            return path
    raise SettingsError(
        f"The path of a socket would be too long: '{home.runtime_dirs[-1] / home.short_name}.sock'.",
        hint="Set XDG_RUNTIME_DIR or TMPDIR to a local directory with a short path.",
    )


# The lock


@contextlib.contextmanager
def start_lock(home: ServerHome) -> Iterator[None]:
    """Let one process at a time start or stop the server. The kernel frees it when the process ends, however it ends.

    There are two: one in the runtime directory, which is local and always works; one in the data directory, for
    sessions that have different runtime directories, where its file system can do it.

    Raises:
        BrokerAwayError: another process has held it for `LOCK_TIMEOUT_S`.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    local_path = new_socket_path(home).with_suffix(".lock")
    with contextlib.ExitStack() as stack:
        for path in (local_path, home.data_dir / "start.lock"):
            # Not inherited by the server: Python opens files with O_CLOEXEC.
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as error:
                raise BrokerError(f"'{path}' can't be opened: {error.strerror}.", where=str(path)) from error
            stack.callback(os.close, descriptor)
            _lock(descriptor, path, deadline)
        yield


def _lock(descriptor: int, path: Path, deadline: float) -> None:
    # Not a blocking flock: a holder that is stopped would hold us for ever, without a word.
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BrokerAwayError(
                    "Another mrun is starting or stopping your server, and has not finished.",
                    hint=f"See who holds it with `fuser {path}`; end that process if it hangs.",
                ) from None
            time.sleep(_LOCK_POLL_S)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                return None
            raise


# The access file


def read_access(settings: Settings) -> Access | None:
    """The access file, None if there is none.

    Raises:
        SettingsError: it can't be read, or other users can read it.
    """
    return _read_access(settings.config_dir.absolute() / ACCESS_FILE)


def _read_access(path: Path) -> Access | None:
    try:
        if path.stat().st_mode & 0o077:
            raise SettingsError(
                f"'{path}' holds a password, and other users can open it.", hint=f"`chmod 600 {path}`.", where=str(path)
            )
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Access, dec_hook=_decode_secret)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        # ValueError: TOML, UTF-8 and msgspec's. None is quoted: a password may stand in the line.
        raise SettingsError(
            f"The access file '{path}' can't be read ({type(error).__name__}).",
            hint="Remove it, and run `mrun server start --listen` again on the host that wrote it.",
            where=str(path),
        ) from None


def other_access(home: ServerHome, record: ServerRecord | None) -> Access | None:
    """The access file if another server wrote it; the password tells whose it is."""
    access = _read_access(home.access_path)
    return None if access is None or _is_of(access, record) else access


def publish_access(home: ServerHome, record: ServerRecord) -> None:
    """Tell other hosts, through a shared home, how to reach the server of this record."""
    if record.listen_url is None or record.password is None:
        return
    home.access_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A JSON text in ASCII is a TOML text.
    lines = [
        "# Written by `mrun server start --listen`: how other hosts reach your server. `mrun server stop` removes it.",
        f"url = {json.dumps(record.listen_url)}",
        f"password = {json.dumps(record.password.reveal())}",
    ]
    write_private(home.access_path, ("\n".join(lines) + "\n").encode())


def withdraw_access(home: ServerHome, record: ServerRecord | None) -> None:
    """Remove the access file if the server of this record wrote it."""
    access = _read_access(home.access_path)
    if access is not None and _is_of(access, record):
        home.access_path.unlink(missing_ok=True)


def _is_of(access: Access, record: ServerRecord | None) -> bool:
    return record is not None and access.password == record.password


# Listening to other hosts


def parse_listen(text: str) -> Listen:
    """`HOST`, `HOST:PORT`, `:PORT`; an IPv6 address with a port stands in brackets."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]*))(?::(\d{1,5}))?", text)
    if re.fullmatch(r"[0-9A-Fa-f.]*(?::[0-9A-Fa-f.]*){2,}", text):
        return Listen(text, 0)
    if not text or found is None or int(found[3] or 0) > 65535:
        raise UsageError(
            f"mrun can't listen on '{text}'.", hint="Use HOST, HOST:PORT or :PORT, as `--listen 0.0.0.0:6380`."
        )
    host = found[1] or found[2] or ""
    return Listen("" if host == "*" else host, int(found[3] or 0))


def listen_url(listen: Listen) -> str:
    is_everywhere = listen.host in ("", "0.0.0.0", "::")
    host = socket.gethostname() if is_everywhere else listen.host
    return f"redis://{f'[{host}]' if ':' in host else host}:{listen.port}"


def free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise BrokerError(
            f"mrun can't listen on '{host}': {error.strerror}.", hint="Name an address of this host."
        ) from error
