"""How a script is started without a file: the words that the kernel would make of its first line."""

from __future__ import annotations

import pytest

from mrun.engine.work.scripts import interpreter_words


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
