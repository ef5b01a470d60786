"""Completion by a real shell: the script that click writes, and what it offers."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.cli.homes import Home

#: Sources the script, and calls its function as bash does, for a line whose last word is unfinished.
ASK = """
eval "$(_MRUN_COMPLETE=bash_source mrun)"
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_mrun_completion mrun
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(home: Home, *words: str) -> list[str]:
    bash = shutil.which("bash")
    assert bash is not None
    asked = subprocess.run(
        [bash, "--norc", "-c", ASK, "bash", *words],
        env=home.environ, cwd=home.work, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert asked.stderr == ""
    return asked.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("mrun", "st"), ["status", "stop"]),
        (("mrun", "queue", "--sample"), ["--samplesfile"]),
        (("mrun", "alloc", "dry"), ["dry-run"]),
        (("mrun", "work", "--log-level", "warn"), ["warning"]),
    ],
)
def test_bash_offers_verbs_options_and_values(shared_home: Home, words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(shared_home, *words) == expected
