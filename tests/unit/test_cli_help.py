"""Help is complete: every option says what it does, every command shows how it is used, and `mrun --help` is quick."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from mrun.cli.main import COMMANDS, cli


def tree(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with the words that are typed."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            yield from tree(below, f"{name} {word}")


ALL = dict(tree(cli, "mrun"))
LEAVES = {name: command for name, command in ALL.items() if not isinstance(command, click.Group)}


@pytest.mark.parametrize("name", ALL)
def test_every_option_has_help(name: str) -> None:
    options = [one for one in ALL[name].params if isinstance(one, click.Option)]
    assert [one.name for one in options if not (one.help or "").strip().endswith((".", "]"))] == []


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_a_line_a_paragraph_and_examples(name: str) -> None:
    command = ALL[name]
    lines = [line.strip() for line in (command.help or "").replace("\b", "").splitlines()]
    assert lines[0].endswith(".")
    assert lines[0][0].isupper()
    examples = lines[lines.index("Examples:") + 1 :]
    shown = [line.strip() for line in examples if line.strip()]
    assert shown
    assert all(line.startswith("$ mrun") for line in shown), "each example can be typed as it stands"


@pytest.mark.parametrize("name", LEAVES)
def test_examples_are_of_this_command_and_use_options_that_it_has(name: str) -> None:
    command = LEAVES[name]
    known = {text for one in command.params for text in (*one.opts, *one.secondary_opts)}
    for line in (command.help or "").splitlines():
        if line.strip().startswith("$ "):
            # What stands behind a bare `--` is a command of the user's.
            words = line.partition("#")[0].partition(" -- ")[0].strip().removeprefix("$ ")
            assert words.startswith(name)
            assert {word for word in words.split() if word.startswith("-")} <= known


@pytest.mark.parametrize("name", LEAVES)
def test_common_options_may_stand_behind_every_command(name: str) -> None:
    given = {text for one in LEAVES[name].params for text in one.opts}
    assert {"--json", "--quiet", "--broker", "--namespace"} <= given


@pytest.mark.parametrize("word", COMMANDS)
def test_list_of_commands_agrees_with_their_own_help(word: str) -> None:
    assert COMMANDS[word] == ALL[f"mrun {word}"].get_short_help_str(limit=200)


def test_help_imports_neither_commands_nor_what_they_need() -> None:
    # -X importtime slows nothing down that matters here, but its output is for people; sys.modules is for tests.
    program = (
        "import sys\n"
        "from mrun.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: mrun")
    loaded = set(done.stderr.split())
    assert [name for name in loaded if name.startswith("mrun.cli.commands.")] == []
    heavy = {"numpy", "redis", "ruamel.yaml", "cryptography", "anyio", "asyncio", "structlog"}
    assert heavy & loaded == set()
