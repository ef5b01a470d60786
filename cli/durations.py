"""Durations as people write them on a command line → seconds."""

from __future__ import annotations

import re

import click

#: `2h30m`, `1d`, `90s`, `1.5h`: each unit once, the larger one first.
_UNITS = re.compile(
    r"(?:(?P<d>\d+(?:\.\d+)?)d)?(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?"
)
_UNITS_S = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
#: Plain seconds.
_SECONDS = re.compile(r"\d+(?:\.\d*)?")
#: `h:mm:ss` and its like, as walltimes of a spec are written.
_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+):(\d+)")


def parse_duration_s(text: str) -> float | None:
    """Seconds of `5400`, `1:30:00`, `90m` or `1h30m`; None for what is no duration, or none to speak of."""
    if not text.isascii():
        return None
    if _SECONDS.fullmatch(text):
        seconds = float(text)
    elif found := _CLOCK.fullmatch(text):
        fields = [int(field or 0) for field in found.groups()]
        seconds = float(sum(field * unit for field, unit in zip(fields, _UNITS_S.values(), strict=True)))
    elif found := _UNITS.fullmatch(text):
        seconds = sum(float(amount) * _UNITS_S[unit] for unit, amount in found.groupdict("0").items())
    else:
        return None
    return seconds or None


def as_duration_s(ctx: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """The callback of an option that takes a duration greater than zero."""
    if value is None:
        return None
    seconds = parse_duration_s(value.strip())
    if seconds is None:
        raise click.BadParameter(f"'{value}' is no duration: write 1:30:00, 90m, 1h30m, or seconds such as 5400.")
    return seconds
