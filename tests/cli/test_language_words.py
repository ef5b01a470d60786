"""docs/from-merlin.md tells the truth: its commands and options are mrun's, its tokens have values."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from mrun.cli.main import COMMANDS, cli
from mrun.engine.language.names import BUILT_IN, RETURN_CODES, built_in

PAGE = (Path(__file__).parents[2] / "docs" / "from-merlin.md").read_text(encoding="utf-8")
#: Every `mrun …` of the page, once.
CALLS = sorted(set(re.findall(r"`(mrun [^`]*)`", PAGE)))
#: `$(MERLIN_X)` stands for any of them.
TOKENS = sorted(set(re.findall(r"\$\(((?:MERLIN|MRUN)_[A-Z_]{2,}|[A-Z_]{6,})\)", PAGE)) - {"MERLIN_X", "MRUN_X"})


def command_of(words: list[str]) -> click.Command:
    """The command that the words begin with; `words` keeps what is left."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(click.Context(command), words.pop(0))
        assert below is not None
        command = below
    return command


@pytest.mark.parametrize("call", CALLS)
def test_a_call_of_the_page_is_one_of_mrun(call: str) -> None:
    words = call.partition(" -- ")[0].partition(">")[0].split()[1:]
    command = command_of(words)
    known = {text for one in command.params for text in (*one.opts, *one.secondary_opts)} | {"--version"}
    assert {word for word in words if word.startswith("-")} <= known


def test_every_command_of_mrun_is_on_the_page() -> None:
    assert [name for name in COMMANDS if not re.search(rf"`(?:mrun )?{name}\b", PAGE)] == []


@pytest.mark.parametrize("name", TOKENS)
def test_a_token_of_the_page_is_built_in(name: str) -> None:
    assert built_in(name) is not None


def test_every_built_in_token_of_merlin_is_on_the_page() -> None:
    assert {name for name in BUILT_IN if not name.startswith("MRUN_")} - set(TOKENS) == set()


def test_return_codes_stand_in_the_order_of_their_names() -> None:
    line = next(line for line in PAGE.splitlines() if "`$(MERLIN_SUCCESS)`" in line)
    names = re.findall(r"\$\((MERLIN_\w+)\)", line)
    assert [RETURN_CODES[name] for name in names] == re.findall(r"\b\d+\b", line.rpartition("|")[0].rpartition(":")[2])
