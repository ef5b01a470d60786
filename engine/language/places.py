"""Where a study lives: its expanded name, its workspace, and the moment, environment and options it was queued with."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from mrun.engine.language.names import RETURN_CODES, SPEC_COPIES
from mrun.engine.language.resolve import Resolver
from mrun.engine.spec.model import Spec

INFO_DIR = "merlin_info"
JOURNAL_DIR = "mrun_info"

_TIMESTAMP_FORMAT = "%Y%m%d-%H%M%S"
_BAD_IN_NAME = re.compile(r"[^-_.() A-Za-z0-9]")


class Place(msgspec.Struct, frozen=True):
    """Where and when a study was queued. All paths are absolute.

    `workspace` may be replaced (a suffix after a collision): nothing else in a Place follows from it.
    """

    name: str
    output_path: str
    workspace: str
    timestamp: str
    spec_path: str
    cwd: str
    #: What `--vars` sets.
    variables: dict[str, str]
    environment: dict[str, str]

    @property
    def spec_root(self) -> str:
        """The directory of the spec file."""
        return os.path.dirname(self.spec_path)

    @property
    def info_dir(self) -> str:
        """`merlin_info` in the workspace."""
        return os.path.join(self.workspace, INFO_DIR)

    def __repr__(self) -> str:
        """Without the environment, which may hold secrets."""
        return f"Place(name={self.name!r}, workspace={self.workspace!r})"


def place_study(
    spec: Spec,
    resolver: Resolver,
    *,
    variables: Mapping[str, str],
    output_path: str | None,
    now: datetime,
    environment: Mapping[str, str],
    cwd: str,
) -> Place:
    """Expand the study's name and output path. Makes and reads nothing; what is wrong is noted by the resolver.

    Args:
        resolver: a new one; it gets the values that are known before the place is.
        variables: what `--vars` sets.
        output_path: what `-o` says; it comes before `OUTPUT_PATH` of env.
    """
    for text in resolver.variables.texts.values():
        resolver.variables.flat(text)
    spec_path = _absolute(spec.path, cwd)
    timestamp = now.strftime(_TIMESTAMP_FORMAT)
    resolver.values = {"SPECROOT": os.path.dirname(spec_path), "MERLIN_TIMESTAMP": timestamp, **RETURN_CODES}
    parent = _output_path(resolver, output_path, cwd)
    resolver.values["OUTPUT_PATH"] = parent
    name = resolver.study_text(spec.name, "the study's name").strip()
    # A token that is left has been noted, and so has a name that is missing.
    if spec.name.value and "$(" not in name and (not name or _BAD_IN_NAME.search(name)):
        message = f"The study's name '{name}' may hold only letters, digits, blanks and '-_.()'."
        resolver.findings.error(spec.name, message)
    workspace = os.path.join(parent, f"{name.replace(' ', '_')}_{timestamp}")
    return Place(name, parent, workspace, timestamp, spec_path, cwd, dict(variables), dict(environment))


def study_values(place: Place) -> dict[str, str]:
    """The value of every built-in token that has one for the whole study."""
    stem = Path(place.spec_path).stem
    return {
        "SPECROOT": place.spec_root,
        "OUTPUT_PATH": place.output_path,
        "MERLIN_WORKSPACE": place.workspace,
        "MERLIN_INFO": place.info_dir,
        "MERLIN_TIMESTAMP": place.timestamp,
        **RETURN_CODES,
        **{name: os.path.join(place.info_dir, stem + end) for name, end in SPEC_COPIES.items()},
    }


def _output_path(resolver: Resolver, option: str | None, cwd: str) -> str:
    text = resolver.variables.texts.get("OUTPUT_PATH")
    if option is not None:
        return _absolute(option, cwd)
    return _absolute(resolver.study_text(text, "OUTPUT_PATH"), cwd) if text else cwd


def _absolute(path: str, cwd: str) -> str:
    return os.path.normpath(os.path.join(cwd, path))
