"""Launchers by name: third parties' are loaded when they are asked for, and a bad one is one clear error."""

from __future__ import annotations

import pytest

from mrun.engine.errors import LauncherError
from mrun.launchers.find import BUILT_IN, enclosing, launcher_named, names, prefix_named
from tests.launchers.kinds import ALLOCATED, install


def test_every_launcher_has_its_name_and_its_words():
    assert all(kind.name == name for name, kind in BUILT_IN.items())
    assert all(prefix_named(name) is kind.prefix for name, kind in BUILT_IN.items())


def test_an_unknown_name_is_an_error_with_the_nearest():
    with pytest.raises(LauncherError, match="'slrum'") as caught:
        launcher_named("slrum")
    assert "slurm" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no.such.module:Thing", "ModuleNotFoundError"),
        ("mrun.launchers.slurm:Nothing", "AttributeError"),
        ("mrun.launchers.lists:expand_hosts", "TypeError"),
        ("builtins:dict", "is no launcher"),
        ("mrun.launchers.slurm:SlurmLauncher", "is no launcher of that name"),
    ],
)
def test_a_bad_plugin_is_one_clear_error(tmp_path, monkeypatch, value, said):
    install(tmp_path, "odd", value)
    monkeypatch.syspath_prepend(tmp_path)
    assert "odd" in names()
    with pytest.raises(LauncherError, match=said) as caught:
        launcher_named("odd")
    assert f"'odd', which is '{value}'" in caught.value.message


def test_nobody_takes_the_name_of_a_launcher_of_mruns(tmp_path, monkeypatch):
    install(tmp_path, "local", "no.such.module:Thing")
    monkeypatch.syspath_prepend(tmp_path)
    assert launcher_named("local").name == "local"


def test_of_several_allocations_the_innermost_counts():
    assert enclosing({}) is None
    for name in ("slurm", "flux", "lsf", "pbs"):
        found = enclosing(ALLOCATED[name])
        assert found is not None
        launcher, allocation = found
        assert launcher.name == allocation.launcher == name
    both = enclosing(ALLOCATED["slurm"] | ALLOCATED["flux"])
    assert both is not None
    assert both[0].name == "flux"
