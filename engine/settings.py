"""The settings: words of a command, variables and `mrun.toml` files → one frozen `Settings`.

`load_settings` is called once, by the command line or by the Python API. Nothing here touches the server or makes a
directory, except `private_dir`, which the rooms call when they first need one.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote

import msgspec

from mrun.engine.errors import MrunError, SettingsError, UsageError
from mrun.engine.nearest import nearest_hint
from mrun.engine.resources import read_resources

#: The file of settings, in the current directory and in the user's configuration directory.
SETTINGS_FILE = "mrun.toml"
#: The longest namespace: it is part of every key.
NAMESPACE_MAX_LENGTH = 64
#: How long a worker is believed alive without a sign of life.
DEFAULT_LEASE_S = 30.0
#: Shorter leases would expire between two beats of a worker on a busy node.
MIN_LEASE_S = 1.0


class Secret:
    """A password that no repr, log line, traceback or JSON shows by accident; `reveal()` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The password itself: for the one who hands it to the server, and nobody else."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class Settings(msgspec.Struct, frozen=True):
    """What mrun was told. The directories are names; whoever needs one makes it.

    `broker` never holds a password: it is moved to `password`. `password` belongs to `broker` alone, not to the
    user's own server. `origins` says for each setting where its value came from.
    """

    config_dir: Path
    state_dir: Path
    runtime_dir: Path
    broker: str | None = None
    namespace: str = "mrun"
    lease_s: float = DEFAULT_LEASE_S
    slots: int | None = None
    #: What workers have, as `--resources` is written; None: what they find.
    resources: str | None = None
    #: strict: what a command queued, and what ended a node, is on the server's disk before it counts as done.
    durability: Literal["everysec", "strict"] = "everysec"
    password_file: Path | None = None
    password: Secret | None = None
    origins: dict[str, str] = {}


class _Found(NamedTuple):
    """A value as it was given: text from an option or a variable, a TOML value from a file."""

    value: Any
    origin: str
    base_dir: Path
    is_text: bool
    error: type[MrunError]
    where: str = ""


def load_settings(options: Mapping[str, str | None], environ: Mapping[str, str], cwd: Path) -> Settings:
    """Settle every setting: option → `MRUN_*` → `mrun.toml` here → `mrun.toml` of the user → default.

    Args:
        options: by the setting's name (`broker`, `lease_s`, …); None where the option was not given.
        environ: the variables, usually `os.environ`.
        cwd: the current directory: its `mrun.toml` is read, and relative paths start here.

    Raises:
        SettingsError: a variable or a file is wrong.
        UsageError: an option is wrong, or holds a password.
    """
    config_dir, config_origin = _user_dir(environ, "XDG_CONFIG_HOME", ".config")
    state_dir, state_origin = _user_dir(environ, "XDG_STATE_HOME", ".local/state")
    runtime_dir, runtime_origin = _runtime_dir(environ)
    origins = {"config_dir": config_origin, "state_dir": state_origin, "runtime_dir": runtime_origin}
    files = [_read_toml(cwd / SETTINGS_FILE), _read_toml(config_dir / SETTINGS_FILE)]
    values: dict[str, Any] = {}
    for name, parse in _PARSERS.items():
        found = _find(name, options, environ, cwd, files)
        origins[name] = found.origin if found else "default"
        if found:
            values[name] = parse(name, found)
    if "broker" in values:
        values["broker"], values["password"] = values["broker"]
        if values["password"]:
            origins["password"] = origins["broker"]
    if values.get("password") is None:
        values["password"], origins["password"] = _password(values, environ, origins)
    return Settings(config_dir=config_dir, state_dir=state_dir, runtime_dir=runtime_dir, origins=origins, **values)


def private_dir(path: Path) -> Path:
    """Make a directory that only its user can enter, or check that it is one, and return it.

    In a directory that others may write to, somebody may have made it before us, as a link or with an open mode, to
    read what we put there or to stand in for our server.

    Raises:
        SettingsError: it is a link, somebody else's, or open to others; or it can't be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        facts = path.lstat()
    except OSError as error:
        raise SettingsError(f"The directory '{path}' can't be made: {error.strerror}.") from error
    fault = ""
    if not stat.S_ISDIR(facts.st_mode):
        fault = "is not a directory but a link or a file"
    elif facts.st_uid != os.getuid():
        fault = f"belongs to another user (uid {facts.st_uid})"
    elif facts.st_mode & 0o077:
        fault = f"is open to other users (mode {stat.S_IMODE(facts.st_mode):04o})"
    if fault:
        raise SettingsError(
            f"'{path}' {fault}, so mrun does not use it.",
            hint=f"Look at what it holds, then remove it, or `chmod 700 {path}` if it is yours.",
            where=str(path),
        )
    return path


# Where things are


def _user_dir(environ: Mapping[str, str], variable: str, below_home: str) -> tuple[Path, str]:
    """An XDG base directory: https://specifications.freedesktop.org/basedir-spec (relative paths are ignored)."""
    named = environ.get(variable, "")
    if named and Path(named).is_absolute():
        return Path(named, "mrun"), variable
    home = environ.get("HOME", "")
    return (Path(home) if home else Path.home()) / below_home / "mrun", "default"


def _runtime_dir(environ: Mapping[str, str]) -> tuple[Path, str]:
    named = environ.get("XDG_RUNTIME_DIR", "")
    # After `su` the variable often still names the directory of the user before.
    if named and Path(named).is_dir() and Path(named).stat().st_uid == os.getuid():
        return Path(named, "mrun"), "XDG_RUNTIME_DIR"
    return temporary_runtime_dir(environ), "default"


def temporary_runtime_dir(environ: Mapping[str, str]) -> Path:
    """The user's directory in the temporary directory: where sockets go without XDG_RUNTIME_DIR."""
    named = environ.get("TMPDIR", "")
    temporary = Path(named) if named and Path(named).is_dir() else Path(tempfile.gettempdir())
    return temporary.absolute() / f"mrun-{os.getuid()}"


# Who says what


def _find(
    name: str,
    options: Mapping[str, str | None],
    environ: Mapping[str, str],
    cwd: Path,
    files: list[tuple[Path, str, dict[str, Any]]],
) -> _Found | None:
    if (option := options.get(name)) is not None:
        origin = f"option {_OPTIONS.get(name) or '--' + name.replace('_', '-')}"
        return _Found(option, origin, cwd, True, UsageError)
    variable = f"MRUN_{name.upper()}"
    # An empty variable is how a job script takes one back.
    if environ.get(variable):
        return _Found(environ[variable], variable, cwd, True, SettingsError)
    for path, text, values in files:
        if name in values:
            where = _place(path, text, name)
            return _Found(values[name], str(path), path.parent, False, SettingsError, where)
    return None


def _read_toml(path: Path) -> tuple[Path, str, dict[str, Any]]:
    """Path, text and values of a settings file; a file that is not there has none."""
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return path, "", {}
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        where = ":".join((str(path), *place.groups())) if place else str(path)
        reason = re.sub(r"\s*\(at [^()]*\)$", "", str(error))
        raise SettingsError(
            f"'{path}' is not valid TOML: {reason}.",
            hint='Each line reads `name = value`; texts stand in quotes: `broker = "redis://host:6379"`.',
            where=where,
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"'{path}' can't be read: {error}.", where=str(path)) from error
    for key in values:
        if key not in _PARSERS:
            raise _unknown_key(key, _place(path, text, key))
    return path, text, values


def _unknown_key(key: str, where: str) -> SettingsError:
    if key == "password":
        hint = 'A password stands in a file of its own: `password_file = "~/.mrun-password"`, or in MRUN_PASSWORD.'
    else:
        hint = nearest_hint(key, _PARSERS)
    return SettingsError(f"There is no setting '{key}'.", hint=hint, where=where)


def _place(path: Path, text: str, key: str) -> str:
    """`file:line` of a key: tomllib does not keep it, and a top-level key begins its line."""
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""", line):
            return f"{path}:{number}"
    return str(path)


# What a value may be


def _wrong(name: str, found: _Found, wanted: str) -> MrunError:
    return found.error(
        f"The setting '{name}' is {found.value!r} ({found.origin}).", hint=f"It must be {wanted}.", where=found.where
    )


def _text(name: str, found: _Found) -> str:
    if not isinstance(found.value, str) or not found.value:
        raise _wrong(name, found, "a text that is not empty")
    return found.value


def _checked(name: str, found: _Found) -> Any:
    """A value of which a type says all that it must be."""
    kind, wanted = _KINDS[name]
    try:
        return msgspec.convert(found.value, kind, strict=not found.is_text)
    except msgspec.ValidationError:
        raise _wrong(name, found, wanted) from None


def _resources(name: str, found: _Found) -> str:
    value = _text(name, found)
    try:
        read_resources(value)
    except ValueError as error:
        raise _wrong(name, found, f"written like cpus=32,gpus=4,licenses/foo=2; {error}") from None
    return value


def _password_file(name: str, found: _Found) -> Path:
    return found.base_dir / Path(_text(name, found)).expanduser()


def _broker(name: str, found: _Found) -> tuple[str, Secret | None]:
    """The address without its password, and the password."""
    value = found.value
    # Nothing below may quote the value before the password is out of it.
    if not isinstance(value, str) or not value:
        raise found.error(
            f"The setting '{name}' ({found.origin}) is not a text, or empty.",
            hint='It must be an address, as "redis://host:6379".',
            where=found.where,
        )
    address, password = split_password(value)
    if password is None:
        return address, None
    if found.error is UsageError:
        raise UsageError(
            "The broker's address on the command line holds a password, which everybody on this host could read in "
            "the list of processes.",
            hint="Put the password in the variable MRUN_PASSWORD or in a file named by MRUN_PASSWORD_FILE.",
        )
    if not found.is_text:
        _check_not_readable_by_others(Path(found.origin))
    return address, password


def split_password(address: str) -> tuple[str, Secret | None]:
    """Take the password out of `scheme://user:password@host`; the scheme may be missing.

    The user's part ends at the *last* @, so that a password with a bare '/', '#' or '@' is found as well: what is not
    recognised here would be shown in messages.

    Raises:
        SettingsError: the password is a `?password=` parameter.
    """
    if re.search(r"[?&]password=", address, re.IGNORECASE):
        raise SettingsError(
            "The broker's address has a 'password' parameter.",
            hint="Put the password in the variable MRUN_PASSWORD or in a file named by MRUN_PASSWORD_FILE.",
        )
    scheme, separator, rest = address.partition("://") if "://" in address else ("", "", address)
    user_part, at, place = rest.rpartition("@")
    if not at or user_part.startswith(("/", "~", ".")):
        return address, None
    user, colon, password = user_part.partition(":")
    if not colon or not password:
        return f"{scheme}{separator}{user}{at if user else ''}{place}", None
    return f"{scheme}{separator}{user}{at if user else ''}{place}", Secret(unquote(password))


# The password


def _password(
    values: Mapping[str, Any], environ: Mapping[str, str], origins: Mapping[str, str]
) -> tuple[Secret | None, str]:
    """From the file that an option names, else MRUN_PASSWORD, else the file of a variable or `mrun.toml`."""
    path: Path | None = values.get("password_file")
    is_option = origins["password_file"].startswith("option ")
    if environ.get("MRUN_PASSWORD") and not is_option:
        return Secret(environ["MRUN_PASSWORD"]), "MRUN_PASSWORD"
    if path is None:
        return None, "default"
    return _read_password(path), origins["password_file"]


def _read_password(path: Path) -> Secret:
    try:
        _check_not_readable_by_others(path)
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"The password file '{path}' can't be read: {error.strerror}.", where=str(path)) from error
    except UnicodeDecodeError:
        # The cause would quote what is in the file.
        raise SettingsError(f"The password file '{path}' is not a text.", where=str(path)) from None
    password = text.rstrip("\r\n")
    if not password or "\n" in password:
        raise SettingsError(
            f"The password file '{path}' does not hold one line.",
            hint="It must hold the password and nothing else.",
            where=str(path),
        )
    return Secret(password)


def _check_not_readable_by_others(path: Path) -> None:
    mode = path.stat().st_mode
    if mode & 0o077:
        raise SettingsError(
            f"'{path}' holds a password, and other users can open it (mode {stat.S_IMODE(mode):04o}).",
            hint=f"`chmod 600 {path}`, and change the password if others use this host.",
            where=str(path),
        )


#: Each setting and how its value is read; the order is the order of `mrun config`.
_PARSERS: dict[str, Callable[[str, _Found], Any]] = {
    "broker": _broker,
    "namespace": _checked,
    "lease_s": _checked,
    "slots": _checked,
    "resources": _resources,
    "durability": _checked,
    "password_file": _password_file,
}

#: What such a setting must be: as a type, and in words.
_KINDS: dict[str, tuple[Any, str]] = {
    "namespace": (
        Annotated[str, msgspec.Meta(pattern=rf"^[A-Za-z0-9._-]{{1,{NAMESPACE_MAX_LENGTH}}}\Z")],
        f"1 to {NAMESPACE_MAX_LENGTH} letters, digits, '-', '_' or '.'",
    ),
    "lease_s": (
        Annotated[float, msgspec.Meta(ge=MIN_LEASE_S, le=sys.float_info.max)],
        f"a number of seconds, at least {MIN_LEASE_S:g}",
    ),
    "slots": (Annotated[int, msgspec.Meta(ge=1)], "a whole number, at least 1"),
    "durability": (Literal["everysec", "strict"], "'everysec' or 'strict'"),
}

#: Options that are not called as their setting.
_OPTIONS = {"lease_s": "--lease"}
