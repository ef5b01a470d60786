"""Scripts of samples that get no script file of their own, and the one of their node for people to read.

A sample's script is the same text as ever: values are put into it, never handed over as variables, which no rule of
quoting could make the same. It lies in memory, and the shell reads it under `/proc/<worker>/fd/<n>`. Where that could
be told, or does not work, it is a file in the sample's directory, and is removed when the sample has ended: with an
interpreter other than the known shells (Python looks for modules beside its script), when the text asks for its own
name, and with a launcher that may start it elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re

import msgspec

from mrun.engine.steps.render import NodeText
from mrun.engine.work.files.way import ClaimedSample, make_directory, write_script
from mrun.engine.work.script_memory import ScriptMemory

_SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "zsh"})
#: A text that may ask what its file is called.
_ASKS_NAME = re.compile(rb"\$\{?#?0|BASH_SOURCE|ZSH_|caller|funcfiletrace|/proc/|%[xN]")


class PassedScript(msgspec.Struct, frozen=True):
    """A script that is there as long as its sample runs."""

    path: str
    #: The interpreter's words, for a script in memory; () for a file, that is started by itself.
    interpreter: tuple[str, ...] = ()
    #: What is to stand in the file; nothing, if it lies in memory.
    text: bytes = b""

    def put(self) -> None:
        """Write the file, if it is one; its directory is there. Raises OSError."""
        if self.text:
            write_script(self.path, self.text)

    def remove(self) -> None:
        """The sample does not run any more."""
        if self.interpreter:
            return
        with contextlib.suppress(OSError):
            os.unlink(self.path)


class ScriptPasser:
    """Gives samples their scripts in memory, where a script can't tell that from a file."""

    def __init__(self, *, is_local: bool) -> None:
        self._is_local = is_local
        self._shell = ""
        self._words: tuple[str, ...] = ()
        self._is_shell = False
        self._node: NodeText | None = None

    def keep_for_people(self, sample: ClaimedSample) -> None:
        """Make the directory of a node, and leave its scripts there, unless that was done last. Raises OSError."""
        text, plan = sample.text, sample.study.plan
        if text is not self._node:
            make_directory(text.directory, plan.workspace)
            _keep_node_scripts(text, plan.samples.columns if plan.samples else ())
            self._node = text

    def give(self, sample: ClaimedSample, directory: str, memory: ScriptMemory, *, is_resumed: bool) -> PassedScript:
        """The script of a sample, or its restart script; in `memory`, if the script can't tell. Raises OSError.

        A script that is a file is still to be `put`.
        """
        text = sample.text
        is_restart = is_resumed and text.step.restart is not None
        script = sample.script(is_restart=is_restart)
        if text.shell != self._shell:
            self._shell, self._words = text.shell, interpreter_words(text.shell)
            self._is_shell = _is_shell(self._words)
        if not self._is_local or not self._is_shell or _ASKS_NAME.search(script):
            return PassedScript(f"{directory}/{text.script_name(is_restart=is_restart)}", text=script)
        memory.fill(script)
        return PassedScript(memory.path, self._words)


def interpreter_words(shell: str) -> tuple[str, ...]:
    """What the kernel makes of the words behind `#!`: a program, and all the rest as one argument."""
    program, _, rest = shell.strip(" \t").replace("\t", " ").partition(" ")
    rest = rest.strip(" ")
    return (program, rest) if rest else (program,)


def _keep_node_scripts(text: NodeText, columns: tuple[str, ...]) -> None:
    """Leave the scripts of a node with `$(…)` where its samples differ, if they are not there. Raises OSError."""
    os.makedirs(text.directory, exist_ok=True)
    for is_restart in (False, True) if text.step.restart is not None else (False,):
        path = f"{text.directory}/{text.script_name(is_restart=is_restart)}"
        if not os.path.exists(path):
            write_script(path, text.pattern(columns, is_restart=is_restart).encode("utf-8", "surrogateescape"))


def _is_shell(words: tuple[str, ...]) -> bool:
    name = os.path.basename(words[0])
    if name == "env" and len(words) > 1:
        name = words[1]
    return name in _SHELLS
