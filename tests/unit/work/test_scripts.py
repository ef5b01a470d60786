"""How a script is started without a file: the words of its first line, and the memory in which it lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mrun.engine.work.files.scripts import interpreter_words
from mrun.engine.work.script_memory import ScriptMemory


@pytest.fixture
def memory() -> Iterator[ScriptMemory]:
    memory = ScriptMemory()
    yield memory
    memory.release()


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("/bin/sh", ("/bin/sh",)),
        (" /bin/bash -e ", ("/bin/bash", "-e")),
        ("/bin/bash -e -u", ("/bin/bash", "-e -u")),
        ("/usr/bin/env\tpython3", ("/usr/bin/env", "python3")),
        ("/usr/bin/env  -S  python3 -u", ("/usr/bin/env", "-S  python3 -u")),
    ],
)
def test_all_behind_the_interpreter_is_one_argument(shell: str, words: tuple[str, ...]) -> None:
    assert interpreter_words(shell) == words


def test_nothing_of_a_longer_script_is_left_under_the_next_one(memory: ScriptMemory) -> None:
    for script in (b"true\n", b"echo a longer one\n", b"exit 3\n", b"false1\n"):
        memory.fill(script)
        assert Path(memory.path).read_bytes() == script


def test_who_still_reads_a_script_that_was_let_go_finds_no_other_in_it(memory: ScriptMemory) -> None:
    memory.fill(b"echo first\n")
    with open(memory.path, "rb") as reader:
        memory.release()
        memory.fill(b"echo other\n")
        assert reader.read() == b"echo first\n"
    assert Path(memory.path).read_bytes() == b"echo other\n"
