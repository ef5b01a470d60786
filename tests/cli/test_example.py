"""`mrun example`: what is shipped is copied, overwrites nothing, and runs to its end, with what its README says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from mrun.cli.commands.example import EXAMPLES
from tests.cli.homes import Home

TOP = Path(__file__).resolve().parents[2]


def run(home: Home, name: str, *words: str) -> Any:
    """Copy an example and run it; all of it must succeed. Returns what `mrun run --json` says."""
    home.ok("example", name)
    return home.json("run", f"{name}/spec.yaml", *words)


def workspace_of(home: Home, name: str) -> Path:
    (workspace,) = [path for path in home.study_dirs() if path.name.startswith(f"{name}_")]
    return workspace


def steps_of(study: Any) -> dict[str, tuple[int, int]]:
    """Step → samples, and how many of them finished."""
    assert study["state"] == "finished"
    assert study["failures"] == 0
    return {step["name"]: (step["samples"], step["finished"]) for step in study["steps"]}


@pytest.mark.slow
def test_every_folder_is_listed_and_has_a_readme_and_a_spec(shared_home: Home) -> None:
    listed = shared_home.json("example", "list")
    assert [one["name"] for one in listed] == list(EXAMPLES)
    assert sorted(EXAMPLES) == sorted(path.name for path in (TOP / "examples").iterdir() if path.is_dir())
    assert shared_home.ok("example", "list", "-q").split() == list(EXAMPLES)
    # Without a word, too
    assert shared_home.ok("example") == shared_home.ok("example", "list")
    assert shared_home.json("example") == listed
    done = shared_home.run("example", "-p", "somewhere")
    assert (done.returncode, "mrun example NAME -p DIR" in done.stderr) == (2, True)
    assert "RETRY, and RESTART" in shared_home.ok("example", "list")
    for name in EXAMPLES:
        assert {"README.md", "spec.yaml"} <= {path.name for path in (TOP / "examples" / name).iterdir()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_copy_is_complete_and_its_spec_is_good(shared_home: Home, name: str) -> None:
    told = shared_home.json("example", name, "-p", f"copies/{name}")
    source, copy = TOP / "examples" / name, shared_home.work / "copies" / name
    assert told["path"] == str(copy)
    shipped = sorted(path.name for path in source.iterdir() if path.is_file())
    assert told["files"] == shipped == sorted(path.name for path in copy.iterdir())
    for file in shipped:
        assert (copy / file).read_bytes() == (source / file).read_bytes()
        assert (copy / file).stat().st_mode & 0o200, "may be changed"
    assert shared_home.run("check", f"copies/{name}/spec.yaml").returncode == 0


def test_package_contains_every_file_of_every_example() -> None:
    settings = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["mrun"]
    package = TOP / "mrun"
    packed = {path.relative_to(package) for glob in settings for path in package.glob(glob) if path.is_file()}
    for name in EXAMPLES:
        shipped = {path.name for path in (TOP / "examples" / name).iterdir() if path.is_file()}
        assert {path.name for path in packed if path.parent == Path("examples", name)} == shipped


def test_nothing_is_overwritten(shared_home: Home) -> None:
    shared_home.ok("example", "hello", "-p", "mine")
    spec = shared_home.write("mine/spec.yaml", "changed\n")
    shared_home.write("file", "x\n")
    for target in ("mine", "file", "file/below"):
        done = shared_home.run("example", "samples", "-p", target)
        assert done.returncode == (3 if target == "file/below" else 2), done.stderr
        assert target in done.stderr
        assert "fix: " in done.stderr
    assert spec.read_text() == "changed\n"
    assert not (shared_home.work / "mine" / "samples.csv").exists()
    # An empty directory loses nothing.
    (shared_home.work / "empty").mkdir()
    shared_home.ok("example", "samples", "-p", "empty")
    assert (shared_home.work / "empty" / "samples.csv").exists()


def test_unknown_example_has_a_suggestion(shared_home: Home) -> None:
    done = shared_home.run("example", "helo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "There is no example 'helo'." in done.stderr
    assert "Did you mean 'hello'?" in done.stderr
    assert shared_home.run("example", "list", "-p", "x").returncode == 2


@pytest.mark.slow
def test_hello_runs(home: Home) -> None:
    told = run(home, "hello")
    assert steps_of(told["studies"][0]) == {"greet": (3, 3), "collect": (1, 1), "measure": (1, 1)}
    assert list(told["outputs"].values()) == [
        "15 characters: bonjour, monde!\n13 characters: hello, world!\n12 characters: hola, mundo!\n"
        "3 greetings, 40 characters\n"
    ]
    greet = workspace_of(home, "hello") / "greet"
    assert sorted(path.name for path in greet.iterdir()) == [
        "GREET.bonjour.WORLD.monde", "GREET.hello.WORLD.world", "GREET.hola.WORLD.mundo",
    ]  # fmt: skip
    assert (greet / "GREET.hola.WORLD.mundo" / "greeting.txt").read_text() == "hola, mundo!\n"


@pytest.mark.slow
def test_samples_runs(home: Home) -> None:
    told = run(home, "samples")
    assert steps_of(told["studies"][0]) == {"area": (8, 8), "sum": (1, 1)}
    assert list(told["outputs"].values()) == ["8 rectangles, 792281 in all; the largest is the field\n"]
    area = workspace_of(home, "samples") / "area"
    assert (area / "0/1/1/area.out").read_text() == "sample 3 is the poster, 60 by 80\n"
    assert len(list(area.glob("*/*/*/MERLIN_FINISHED"))) == 8


@pytest.mark.slow
def test_chain_runs(home: Home) -> None:
    told = run(home, "chain", "--slots", "4", "--vars", "SLOW_S=4")
    assert steps_of(told["studies"][0]) == {
        **dict.fromkeys(("mesh", "by_loop", "by_formula", "compare"), (10, 10)),
        "report": (1, 1),
    }
    (output,) = told["outputs"].values()
    agreed, order = output.splitlines()
    assert agreed == "10 of 10 agree"
    assert sorted(order.removeprefix("in this order: ").split()) == [f"{number:02}" for number in range(10)]
    assert order.endswith(" 00"), "nobody waited for the slow one"
    compare = workspace_of(home, "chain") / "compare"
    assert [(compare / f"{i:02}/agreed.txt").read_text() for i in range(3)] == ["5050\n", "20100\n", "45150\n"]


@pytest.mark.slow
def test_restart_runs(home: Home) -> None:
    told = run(home, "restart")
    assert steps_of(told["studies"][0]) == {"download": (1, 1), "simulate": (1, 1), "report": (1, 1)}
    assert list(told["outputs"].values()) == [
        "input after 3 executions\nday 10: 60\ngoing on after day 4\ngoing on after day 8\nthe last day is done\n"
    ]
    workspace = workspace_of(home, "restart")
    assert (workspace / "download/log.txt").read_text() == "execution 0\nexecution 1\nexecution 2\n"
    assert (workspace / "simulate/simulate.restart.sh").exists()
    # What the README says of too few retries.
    spec = home.work / "restart/spec.yaml"
    spec.write_text(spec.read_text().replace("max_retries: 5\n      retry_delay: 0.1\n\n", "max_retries: 1\n\n"))
    done = home.run("run", "restart/spec.yaml")
    assert done.returncode == 7
    assert "retries exhausted" in done.stdout


@pytest.mark.slow
def test_iterate_runs_three_times_and_ends(home: Home) -> None:
    told = run(home, "iterate")
    assert [study["name"] for study in told["studies"]] == ["iterate_1", "iterate_2", "iterate_3"]
    for study in told["studies"]:
        assert steps_of(study) == {"evaluate": (9, 9), "choose": (1, 1), "again": (1, 1)}
    assert [(workspace_of(home, f"iterate_{i}") / "choose/choose.out").read_text() for i in (1, 2, 3)] == [
        "iteration 1: the best of 0 to 8 is 3.000000\n",
        "iteration 2: the best of 2 to 4 is 2.750000\n",
        "iteration 3: the best of 2.5 to 3 is 2.687500\n",
    ]
    assert (workspace_of(home, "iterate_3") / "again/again.out").read_text() == "done after 3 iterations\n"
    assert len(home.study_dirs()) == 3


def test_epidemic_runs(home: Home) -> None:
    pytest.importorskip("matplotlib")
    told = run(home, "epidemic", "--vars", "N_SAMPLES=20")
    assert steps_of(told["studies"][0]) == {"simulate": (40, 40), "collect": (2, 2), "train": (2, 2), "draw": (1, 1)}
    assert (workspace_of(home, "epidemic") / "draw/epidemic.png").stat().st_size > 10_000
