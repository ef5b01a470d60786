"""The keys of `run` and `samples` that say a number or a word: one row each, which checks and decodes them.

A text that holds a token says what it says only after that is replaced. So a row serves twice: for texts of the file,
and for texts whose tokens were put in.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import msgspec

from mrun.engine.nearest import nearest_hint
from mrun.engine.spec.texts import parse_flag, parse_number, parse_whole

_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]*)?)\s*%")


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key whose text says something else than a text.

    Attributes:
        default: its value where the key is left out.
        wanted: what a text of the file must be, for messages.
        later: the message about a text whose tokens were put in; it names `{step}` and `{value}`.
        hint: how to write it.
        is_of_rows: it may differ from row to row of the parameters; else a step has one value for all.
    """

    name: str
    default: Any = None
    wanted: str
    later: str
    hint: str = ""
    is_of_rows: bool = True

    def parse(self, text: str) -> Any:
        """What the text says.

        Raises:
            ValueError: it is not what it must be.
        """
        raise NotImplementedError

    def nearest(self, text: str) -> str:
        """A hint at what was meant by that text, if it is like something."""
        return ""


class _Whole(Key, frozen=True, kw_only=True):
    """A whole number; or `word`, which stands for None."""

    least: int = 0
    word: str | None = None

    def parse(self, text: str) -> int | None:
        if text == self.word:
            return None
        number = parse_whole(text)
        if number is None or number < self.least:
            raise ValueError(text)
        return number


class _Seconds(Key, frozen=True, kw_only=True):
    def parse(self, text: str) -> float:
        number = parse_number(text)
        if number is None or number < 0:
            raise ValueError(text)
        return number


class _Share(Key, frozen=True, kw_only=True):
    """A number of samples, or a percentage up to 100 %: as a text in decimal digits, with its sign."""

    def parse(self, text: str) -> str:
        percent = _PERCENT.fullmatch(text)
        if percent is not None and (parse_number(percent[1]) or 0.0) <= 100.0:
            return f"{percent[1]}%"
        number = parse_whole(text)
        if number is None or number < 0:
            raise ValueError(text)
        return str(number)


class _Flag(Key, frozen=True, kw_only=True):
    def parse(self, text: str) -> bool:
        flag = parse_flag(text)
        if flag is None:
            raise ValueError(text)
        return flag


class _Choice(Key, frozen=True, kw_only=True):
    words: Collection[str]

    def parse(self, text: str) -> str:
        if text not in self.words:
            raise ValueError(text)
        return text

    def nearest(self, text: str) -> str:
        return nearest_hint(text, self.words)


def _whole(name: str, default: int) -> Key:
    return _Whole(
        name=name,
        default=default,
        wanted="must be a whole number, at least 0",
        later=f"{name} of step '{{step}}' must be a whole number of at least 0, not '{{value}}'.",
        hint=f"Write {name}: {default}, for example.",
    )


def _choice(name: str, words: tuple[str, ...], subject: str, *, is_of_rows: bool = True) -> Key:
    """The first of the words is the default."""
    wanted = f"must be one of {', '.join(words)}"
    later = f"{subject} of step '{{step}}' {wanted}, not '{{value}}'."
    return _Choice(name=name, default=words[0], wanted=wanted, later=later, words=words, is_of_rows=is_of_rows)


def _count(name: str, least: int) -> Key:
    """A number of resources: a step that says nothing asks for none."""
    return _Whole(
        name=name,
        least=least,
        wanted=f"must be a whole number, at least {least}",
        later=f"{name} must be a whole number of at least {least}, not '{{value}}'.",
        hint=f"Write {name}: {max(least, 1)}, for example, or {name}: $(VARIABLE).",
    )


def _flag(name: str, subject: str, *, is_of_rows: bool = True) -> Key:
    wanted = "must be yes or no"
    later = f"{subject} {wanted}, not '{{value}}'."
    return _Flag(name=name, default=False, wanted=wanted, later=later, hint="Write yes or no.", is_of_rows=is_of_rows)


RUN_KEYS: dict[str, Key] = {
    key.name: key
    for key in (
        _whole("max_retries", 30),
        _Seconds(
            name="retry_delay",
            default=1.0,
            wanted="must be a number of seconds, at least 0",
            later="retry_delay of step '{step}' must be a number of seconds, not '{value}'.",
            hint="Write retry_delay: 1, for example.",
        ),
        _choice("on_failure", ("continue", "skip", "abort"), "on_failure"),
        _Share(
            name="max_fails",
            wanted="must be a number of samples or a percentage",
            later="max_fails '{value}' is not a number of samples or a percentage.",
            hint="Write max_fails: 10, or max_fails: 5%, for example.",
        ),
        _whole("max_losses", 3),
        _Whole(
            name="chunk",
            least=1,
            word="auto",
            wanted="must be auto or a whole number, at least 1",
            later="chunk of step '{step}' must be auto or a whole number, not '{value}'.",
            hint="Remove it: auto finds a good size.",
        ),
        _choice("mode", ("inside", "step", "job"), "The mode", is_of_rows=False),
        _whole("throttle", 0),
        _flag("warm", "'warm' of step '{step}'", is_of_rows=False),
    )
}

#: Resources that are counted.
COUNT_KEYS = {
    name: _count(name, least)
    for name, least in {
        "nodes": 1,
        "procs": 1,
        "cores per task": 1,
        "gpus per task": 0,
        "gpus": 0,
        "num resource set": 1,
        "exit_on_error": 0,
    }.items()
}
#: Counts that no launcher makes use of.
UNUSED_COUNT_KEYS = {name: _count(name, 1) for name in ("tasks per rs", "rs per node", "cpus per rs")}
FLAG_KEYS = {name: _flag(name, name) for name in ("exclusive", "nested")}

SAMPLES_KEYS: dict[str, Key] = {
    key.name: key
    for key in (
        _Whole(
            name="level_max_dirs",
            default=25,
            least=2,
            wanted="must be a whole number, at least 2",
            later="level_max_dirs must be at least 2, not {value}.",
            hint="Write level_max_dirs: 25, for example.",
        ),
        _Choice(
            name="files",
            default="full",
            words=("full", "lean", "packed"),
            wanted="must be one of full, lean, packed",
            later="'files' must be one of full, lean, packed, not '{value}'.",
        ),
    )
}
