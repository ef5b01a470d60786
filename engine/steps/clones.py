"""`env.dependencies.git`: repositories that are cloned while a study is queued."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping

import msgspec

from mrun.engine.errors import Problem, SpecError
from mrun.engine.language.resolve import Resolver
from mrun.engine.spec.model import GitDependency, Spec, Text

#: Of what git said, so many lines are shown.
_TAIL_LINES = 5


class Clone(msgspec.Struct, frozen=True):
    """A repository, where its clone belongs, and what is checked out: a tag or branch, or a commit, or what it has."""

    name: str
    url: str
    path: str
    tag: str = ""
    branch: str = ""
    commit: str = ""
    #: Of its entry in the spec, for messages.
    where: Problem = Problem("")


def read_clones(spec: Spec, resolver: Resolver) -> tuple[Clone, ...]:
    """The clones that a study asks for. Makes nothing.

    Args:
        resolver: knows the path of each by its name.
    """

    def text(given: Text | None, what: str) -> str:
        return resolver.study_text(given, what).strip() if given else ""

    def clone(git: GitDependency) -> Clone:
        name = git.name.value
        return Clone(
            name,
            text(git.url, f"the url of '{name}'"),
            resolver.values[name],
            text(git.tag, f"the tag of '{name}'"),
            text(git.branch, f"the branch of '{name}'"),
            text(git.hash, f"the hash of '{name}'"),
            Problem("", spec.shown_path, git.url.line, git.url.column),
        )

    return tuple(clone(git) for git in spec.git_dependencies)


def make_clone(clone: Clone, environment: Mapping[str, str], cwd: str) -> None:
    """Clone it, whole or not at all. A clone that is there already is taken if it is what is asked for; never changed.

    Raises:
        SpecError: git failed, or something else is at that place.
    """
    if os.path.lexists(clone.path):
        _check_there(clone, environment, cwd)
        return
    parent = os.path.dirname(clone.path)
    try:
        os.makedirs(parent, exist_ok=True)
        directory = tempfile.mkdtemp(prefix=f".{clone.name}-", dir=parent)
    except OSError as error:
        raise _failed(clone, f"can't be cloned to '{clone.path}': {error.strerror}") from error
    try:
        target = os.path.join(directory, clone.name)
        reference = clone.tag or clone.branch
        words = ["-c", "advice.detachedHead=false", "clone", "--quiet", *(["--branch", reference] if reference else [])]
        _git(clone, [*words, "--", clone.url, target], environment, cwd)
        if clone.commit:
            _git(clone, ["-C", target, "checkout", "--quiet", "--detach", clone.commit], environment, cwd)
        try:
            os.rename(target, clone.path)
        except OSError:
            # Another `mrun queue` was faster.
            _check_there(clone, environment, cwd)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _check_there(clone: Clone, environment: Mapping[str, str], cwd: str) -> None:
    def answer(*words: str) -> str:
        ended = _run(clone, ["-C", clone.path, *words], environment, cwd)
        return ended.stdout.strip() if ended.returncode == 0 else ""

    is_fit = os.path.exists(os.path.join(clone.path, ".git"))
    is_fit = is_fit and answer("config", "--get", "remote.origin.url") in (clone.url, os.path.join(cwd, clone.url))
    wanted = clone.tag or clone.commit
    if is_fit and wanted:
        is_fit = answer("rev-parse", "HEAD") == (answer("rev-parse", "--verify", f"{wanted}^{{commit}}") or "nothing")
    if is_fit and clone.branch:
        is_fit = answer("rev-parse", "--abbrev-ref", "HEAD") == clone.branch
    if not is_fit:
        what = f"can't be cloned: '{clone.path}' is there, and is not what is asked for"
        raise _failed(clone, what, "Remove it, or give another path.")


def _git(clone: Clone, words: list[str], environment: Mapping[str, str], cwd: str) -> None:
    ended = _run(clone, words, environment, cwd)
    if ended.returncode != 0:
        tail = "\n".join(ended.stderr.strip().splitlines()[-_TAIL_LINES:])
        raise _failed(clone, f"can't be cloned from '{clone.url}':\n{tail}")


def _run(clone: Clone, words: list[str], environment: Mapping[str, str], cwd: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", *words],
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise _failed(clone, f"can't be cloned: git can't be run: {error.strerror}", "Install git.") from error


def _failed(clone: Clone, what: str, hint: str = "") -> SpecError:
    message = f"The dependency '{clone.name}' {what}"
    message = message if "\n" in message else f"{message}."
    return SpecError([msgspec.structs.replace(clone.where, message=message, hint=hint)])
