"""`env.dependencies.git`, with git itself on repositories of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mrun.engine.errors import Problem, SpecError
from mrun.engine.spec.model import GitDependency
from mrun.engine.steps.clones import Clone, make_clone

from .specs import body, make_spec, plan, resolved, step, text

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
ENVIRONMENT = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
               "LC_ALL": "C"}  # fmt: skip


def git(directory: Path, *words: str) -> str:
    own = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main")
    ended = subprocess.run(
        ["git", *own, *words], cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return ended.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """Two commits on main, the first of them tagged v1; a branch `side` with a third."""
    directory = tmp_path_factory.mktemp("git") / "code"
    directory.mkdir()
    git(directory, "init", "-q", "-b", "main")
    for version in ("1", "2"):
        (directory / "version").write_text(version)
        git(directory, "add", ".")
        git(directory, "commit", "-q", "-m", version)
        if version == "1":
            git(directory, "tag", "v1")
    git(directory, "checkout", "-q", "-b", "side")
    (directory / "version").write_text("side")
    git(directory, "commit", "-q", "-a", "-m", "side")
    git(directory, "checkout", "-q", "main")
    return directory


def cloned(repository: Path, path: Path, **reference: Any) -> str:
    clone = Clone("CODE", str(repository), str(path / "CODE"), **reference)
    make_clone(clone, ENVIRONMENT, str(path.parent))
    assert [one.name for one in path.iterdir()] == ["CODE"], "nothing else is left"
    return (path / "CODE" / "version").read_text()


@pytest.mark.parametrize(("reference", "version"), [({}, "2"), ({"tag": "v1"}, "1"), ({"branch": "side"}, "side")])
def test_what_is_checked_out(repository, tmp_path, reference, version):
    assert cloned(repository, tmp_path / "new" / "deep", **reference) == version
    assert cloned(repository, tmp_path / "new" / "deep", **reference) == version, "it is there, and is taken"


def test_a_commit_is_checked_out(repository, tmp_path):
    commit = git(repository, "rev-parse", "v1")
    assert cloned(repository, tmp_path, commit=commit) == "1"
    assert cloned(repository, tmp_path, commit=commit[:10]) == "1"


def test_a_url_may_be_relative_to_where_the_user_is(repository, tmp_path):
    make_clone(Clone("CODE", repository.name, str(tmp_path / "CODE")), ENVIRONMENT, str(repository.parent))
    make_clone(Clone("CODE", repository.name, str(tmp_path / "CODE")), ENVIRONMENT, str(repository.parent))
    assert (tmp_path / "CODE" / "version").read_text() == "2"


@pytest.mark.parametrize("reference", [{"tag": "v1"}, {"branch": "side"}, {"commit": "0" * 40}])
def test_a_clone_that_is_something_else_is_refused_and_kept(repository, tmp_path, reference):
    cloned(repository, tmp_path)
    with pytest.raises(SpecError, match="is there, and is not what is asked for"):
        cloned(repository, tmp_path, **reference)
    assert (tmp_path / "CODE" / "version").read_text() == "2"


def test_a_directory_that_is_no_clone_is_refused(repository, tmp_path):
    (tmp_path / "CODE").mkdir()
    with pytest.raises(SpecError, match="is there, and is not what is asked for"):
        cloned(repository, tmp_path)


@pytest.mark.parametrize("reference", [{"tag": "nope"}, {"branch": "nope"}, {"commit": "nope"}])
def test_gits_own_last_lines_are_told_and_nothing_is_left(repository, tmp_path, reference):
    with pytest.raises(SpecError) as caught:
        cloned(repository, tmp_path, **reference)
    assert f"can't be cloned from '{repository}':\n" in caught.value.message
    assert "nope" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_repository_that_is_not_there(tmp_path):
    with pytest.raises(SpecError, match=r"does not exist|does not appear"):
        make_clone(Clone("CODE", str(tmp_path / "no"), str(tmp_path / "CODE")), ENVIRONMENT, str(tmp_path))


def test_a_url_is_never_an_option(tmp_path):
    with pytest.raises(SpecError):
        make_clone(Clone("CODE", "--upload-pack=touch x", str(tmp_path / "CODE")), ENVIRONMENT, str(tmp_path))
    assert not (tmp_path / "x").exists()


def test_a_machine_without_git(tmp_path):
    clone = Clone("CODE", "u", str(tmp_path / "CODE"))
    with pytest.raises(SpecError, match="git can't be run") as caught:
        make_clone(clone, {"PATH": str(tmp_path)}, str(tmp_path))
    assert caught.value.hint == "Install git."


def test_texts_of_an_entry_are_expanded_and_its_name_is_a_token():
    git_of = GitDependency(text("CODE"), text("$(MERLIN_WORKSPACE)/deps"), text("$(HOST)/x.git"), tag=text("v$(N)"))
    spec = make_spec(step("s", "$(CODE)/run"), git_dependencies=(git_of,), variables={"HOST": "h", "N": "1"})
    (clone,) = resolved(spec).clones
    path = "/area/study_20260304-050607/deps/CODE"
    assert msgspec.structs.replace(clone, where=Problem("")) == Clone("CODE", "h/x.git", path, tag="v1")
    assert (clone.where.path, clone.where.line) == ("/specs/the.yaml", git_of.url.line)
    assert body(plan(spec)) == f"{path}/run"
