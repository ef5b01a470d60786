"""`warm: true`: may a step's scripts be run by a shell that stays? Only if they can't tell it from one of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from mrun.engine.language.findings import Findings
from mrun.engine.spec.model import Spec, Step, Text
from mrun.engine.steps.scripts import DraftScripts, Script
from mrun.engine.steps.terms import StepTerms, StepTexts

_SHELL = re.compile(r"/\S+/(sh|dash|bash)|/\S+/env\s+(sh|dash|bash)")


def _words(*words: str) -> str:
    """Commands: not an option, a part of a path, or a name that something is assigned to."""
    return rf"(?<![\w./$-])(?:{'|'.join(words)})(?![\w./=-])"


def _names(*names: str) -> str:
    return rf"(?<!\w)(?:{'|'.join(names)})(?!\w)"


def _set_option(signs: str, letter: str, word: str) -> str:
    return rf"(?<![\w./$-])set[ \t]+[-+\w \t]*(?:[{signs}]\w*{letter}|\b{word}\b)"


#: What a script could tell a warm shell by, and why.
_TELLING = tuple(
    (re.compile("|".join(patterns), re.MULTILINE), why)
    for why, patterns in {
        "it tells of the shell's process, which serves many samples": (
            r"\$\$",
            r"\$\{\$\}",
            _names("PPID", "BASHPID"),
            "/proc/",
        ),
        "it may be the process of another sample": (r"\$!", r"\$\{!\}"),
        "the shell reads the script as a part of its own": (
            r"\$\{?#?0",
            r"\$_(?!\w)",
            r"\$\{_\W",
            _names("SHLVL", "FUNCNAME", r"BASH_(?:ARGC|ARGV0?|EXECUTION_STRING|LINENO|SOURCE|SUBSHELL)"),
            _words("caller"),
            _set_option("-", "x", "xtrace"),
        ),
        "job control is the shell's own": (
            r"\$-",
            r"\$\{-\}",
            _words("jobs", "fg", "bg", "disown", "suspend"),
            _set_option("-+", "m", "monitor"),
        ),
        "a subshell treats traps in a way of its own": (_words("trap"),),
        "its clock has run since the shell was started": (_words("times"), _names("SECONDS")),
        "it lists variables of the shell's own": (
            r"(?:^|[;&|(])[ \t]*(?:set|declare|typeset|export|readonly)[ \t]*(?:$|[;&|)>#])",
            _words(r"(?:declare|typeset|export|readonly)[ \t]+-\w*p\w*"),
        ),
    }.items()
)
#: A function, from its head to the line that ends with or begins with its closing brace.
_FUNCTION = re.compile(
    r"^[ \t]*(?:function[ \t]+[^\s()]+(?:[ \t]*\([ \t]*\))?|[^\s()=]+[ \t]*\([ \t]*\))"
    r"\s*\{(?:[^\n]*\}[ \t]*$|.*?^[ \t]*\})",
    re.MULTILINE | re.DOTALL,
)
_RETURN = re.compile(_words("return"))


def read_warm(
    spec: Spec, step: Step, texts: StepTexts, terms: StepTerms, scripts: DraftScripts, findings: Findings
) -> bool:
    """Whether the step is to be run by warm shells. Notes what forbids it."""
    if not texts.setting("warm"):
        return False
    name = step.name.value
    for shell in dict.fromkeys(one.shell for one in terms.different):
        if not _SHELL.fullmatch(shell):
            message = f"Step '{name}' can't be warm: its shell is '{shell}',"
            message = f"{message} and not the path of sh, dash or bash without options."
            findings.error(
                step.run.shell or spec.batch.shell, message, hint="Remove 'warm: true', or change the shell."
            )
    for key, text, script in (("cmd", step.run.cmd, scripts.cmd), ("restart", step.run.restart, scripts.restart)):
        if text is None or script is None:
            continue
        for offset, found, why in _telling(text, script):
            message = f"Step '{name}' can't be warm: its {key} holds '{found}', and {why}."
            findings.error(text, message, offset=offset, hint="Remove 'warm: true', or write the script without it.")
    return True


def _telling(text: Text, script: Script) -> Iterator[tuple[int, str, str]]:
    """What the text holds, and where; or what its variables bring along, at its beginning."""
    found = list(_found(text.value))
    if found:
        yield from found
        return
    expanded = "".join(piece if isinstance(piece, str) else "\0" for piece in script)
    yield from ((0, what, why) for _, what, why in _found(expanded))


def _found(script: str) -> Iterable[tuple[int, str, str]]:
    """The first of each kind."""
    for pattern, why in _TELLING:
        if match := pattern.search(script):
            yield match.start() + _margin(match[0]), match[0].strip(" \t\n;&|()>#"), why
    # A function's text gives way to blanks, so that offsets stay.
    outside = _FUNCTION.sub(lambda match: " " * len(match[0]), script)
    if match := _RETURN.search(outside):
        yield match.start(), "return", "outside of a function it would end the script"


def _margin(found: str) -> int:
    """Where the word begins in what the pattern took."""
    return len(found) - len(found.lstrip(" \t\n;&|("))
