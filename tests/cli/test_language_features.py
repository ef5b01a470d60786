"""Merlin's features all at once, through the installed `mrun`: exact tree of files, texts of scripts, end states.

What is expected is derived here, from the rules of the language, by a small model that shares no code with mrun.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.homes import Home

SPEC = """\
description:
  name: $(WHAT) of $(N)
  description: Everything at once.
env:
  variables:
    OUTPUT_PATH: ./studies
    WHAT: features
    N: 5
    HALF: $(WHOLE)/2
    WHOLE: 1
    FLAGS: [-v, --fast]
    BASE: $AREA/data
  labels:
    TAG: tag-$(A.label)
batch: {type: local, shell: /bin/bash}
user:
  quick: &quick
    retry_delay: 0
    max_retries: 5
  sims: &sims
    <<: *quick
    task_queue: sims_$(A)
study:
  - name: collect
    description: A funnel over all samples and combinations, before its parents in the file.
    run:
      <<: *quick
      cmd: |
        cat $(post.workspace)/*/$(MERLIN_GLOB_PATH)post_*.out | LC_ALL=C sort | grep -v '|'
        echo $(MERLIN_SAMPLE_NAMES): $(MERLIN_PATHS_ALL)
      depends: [post_*]
      task_queue: ends
  - name: sim run
    description: Samples × combinations.
    run:
      <<: *sims
      cmd: |
        cat > values.txt <<'END'
        $(X)|$(Y)|$(MERLIN_SAMPLE_VECTOR)
        $(MERLIN_SAMPLE_ID) $(MRUN_SAMPLE_PATH) $(A) $(A.label) $(A.name) $(TAG) \\$(X) $HOME ${N} `date`
        END
        echo $(WORKSPACE)
      depends: [prep]
      shell: /usr/bin/env -S bash -l
  - name: prep
    description: Python, once.
    run:
      shell: /usr/bin/env python3
      task_queue: preps
      cmd: |
        options = "$(FLAGS)".split()
        print(options, "$(HALF)", r'\\n: # *&!', "$(BASE)")
  - name: post
    description: Sample by sample behind the simulation, in something like csh.
    run:
      <<: *sims
      shell: /usr/bin/env csh
      cmd: cat "$(sim run.workspace)/$(MERLIN_SAMPLE_PATH)/values.txt"
      depends: [sim run]
  - name: both
    description: Once retried, then restarted.
    run:
      <<: *quick
      task_queue: $(WHAT)
      cmd: |
        if [ -e began ]; then exit $(MERLIN_RESTART); fi
        touch began; echo $(A) $(B); exit $(MRUN_RETRY)
      restart: |
        echo again $(B.label); exit $(MERLIN_SUCCESS)
  - name: codes
    description: One fails softly, one blocks, one is good.
    run: {cmd: exit $(B)}
  - name: behind
    description: Runs behind the soft failure, not behind the error.
    run: {cmd: 'echo behind $(B)', depends: [codes]}
  - name: end
    description: Behind all of both.
    run:
      cmd: ls $(both.workspace)
      depends: [both_*, collect]
global.parameters:
  A: {values: [1, 1, .50], label: A.%%, name: the A}
  B: {values: [101, 106, 0], label: [soft ware, err/or, "0"]}
merlin:
  resources:
    task_server: celery
    overlap: False
    workers:
      sims: {args: -c 2 -O fair --prefetch-multiplier 1, steps: [sim run, post]}
  samples:
    file: $(MERLIN_INFO)/samples.csv
    column_labels: [X, Y]
    level_max_dirs: 3
    generate: {cmd: cp $(SPECROOT)/table.csv $(MERLIN_INFO)/samples.csv}
"""
TABLE = """\
# X and Y
1.50,it's
"a, b",back\\slash

"é: # not","*&! ${x}"
$(Y),$HOME
,last
"""
ROWS = [("1.50", "it's"), ("a, b", "back\\slash"), ("é: # not", "*&! ${x}"), ("$(Y)", "$HOME"), ("", "last")]
#: Paths of five samples, three a level: the smallest depth with 3^depth ≥ 5 is two, and "3" has one digit.
PATHS = ["0/0", "0/1", "0/2", "1/0", "1/1"]
#: Zipped rows: A as Python prints it, B's value, B's label, the label as a directory.
TABLE_ROWS = [("1", "101", "soft ware", "soft_ware"), ("1", "106", "err/or", "error"), ("0.5", "0", "0", "0")]
STATES = {
    "collect": (1, 0, 0), "sim run": (10, 0, 0), "prep": (1, 0, 0), "post": (10, 0, 0), "both": (3, 0, 0),
    "codes": (1, 2, 0), "behind": (2, 0, 1), "end": (1, 0, 0),
}  # fmt: skip

File = tuple[str, str]


def instance(directory: str, name: str, shell: str, body: str, out: str, is_finished: bool = True) -> Iterator[File]:
    """The files of an instance, by path."""
    yield f"{directory}/{name}.sh", f"#!{shell}\n\n{body}\n"
    yield f"{directory}/{name}.out", out
    yield f"{directory}/{name}.err", ""
    if is_finished:
        yield f"{directory}/MERLIN_FINISHED", ""


def sample_files(top: Path, a: str, number: int) -> Iterator[File]:
    """A sample's two instances, one behind the other."""
    path, (x, y) = PATHS[number], ROWS[number]
    values = f"{x}|{y}|{x} {y}\n{number} {path} {a} A.{a} the A tag-A.{a} \\$(X) $HOME ${{N}} `date`\n"
    here = f"{top}/sim_run/A.{a}"
    body = f"cat > values.txt <<'END'\n{values}END\necho {here}"
    yield from instance(f"sim_run/A.{a}/{path}", f"sim_run_A.{a}", "/usr/bin/env -S bash -l", body, f"{here}\n")
    yield f"sim_run/A.{a}/{path}/values.txt", values
    body = f'cat "{here}/{path}/values.txt"'
    yield from instance(f"post/A.{a}/{path}", f"post_A.{a}", "/usr/bin/env csh", body, values)


def combination_files(a: str, b: str, label: str, directory: str) -> Iterator[File]:
    """What the steps without samples make of a row."""
    both = f"A.{a}.{directory}"
    body = f"if [ -e began ]; then exit 100; fi\ntouch began; echo {a} {b}; exit 104"
    yield from instance(f"both/{both}", f"both_{both}", "/bin/bash", body, f"{a} {b}\nagain {label}\n")
    yield f"both/{both}/both_{both}.restart.sh", f"#!/bin/bash\n\necho again {label}; exit 0\n"
    yield f"both/{both}/began", ""
    yield from instance(f"codes/{directory}", f"codes_{directory}", "/bin/bash", f"exit {b}", "", b == "0")
    if b != "106":
        body, out = f"echo behind {b}", f"behind {b}\n"
        yield from instance(f"behind/{directory}", f"behind_{directory}", "/bin/bash", body, out)


def expected_files(top: Path) -> dict[str, str]:
    """Every file below the workspace that belongs to a step, with its text."""
    files: list[File] = []
    for a in ("1", "0.5"):
        for number in range(5):
            files += sample_files(top, a, number)
    for row in TABLE_ROWS:
        files += combination_files(*row)
    body = 'options = "-v --fast".split()\nprint(options, "1/2", r\'\\n: # *&!\', "/area/data")'
    out = "['-v', '--fast'] 1/2 \\n: # *&! /area/data\n"
    files += instance("prep", "prep", "/usr/bin/env python3", body, out)
    lines = [
        f"{number} {path} {a} A.{a} the A tag-A.{a} \\$(X) $HOME ${{N}} `date`\n"
        for number, path in enumerate(PATHS)
        for a in ("0.5", "1")
    ]
    names = f"X Y: {' '.join(PATHS)}"
    body = f"cat {top}/post/*/*/*/post_*.out | LC_ALL=C sort | grep -v '|'\necho {names}"
    files += instance("collect", "collect", "/bin/bash", body, "".join(lines) + names + "\n")
    combinations = "A.0.5.0\nA.1.error\nA.1.soft_ware\n"
    files += instance("end", "end", "/bin/bash", f"ls {top}/both", combinations)
    return dict(files)


@pytest.fixture
def study_home(home: Home) -> Home:
    """A home in which `csh` is a stand-in, and a login shell reads nothing."""
    folder = home.directory / "bin"
    folder.mkdir()
    csh = folder / "csh"
    csh.write_text('#!/bin/sh\nexec /bin/sh "$@"\n')
    csh.chmod(0o755)
    home.environ |= {"PATH": f"{folder}:{home.environ['PATH']}", "AREA": "/area", "HOME": str(home.directory)}
    home.write("study.yaml", SPEC)
    home.write("table.csv", TABLE)
    return home


def test_a_study_with_all_features_gives_exactly_the_files_that_the_language_derives(study_home: Home) -> None:
    study = study_home.queue("study.yaml")
    study_home.ok("work", "study.yaml", "--exit-when-done")

    (workspace,) = study_home.study_dirs()
    assert workspace.name.startswith("features_of_5_")
    expected = expected_files(workspace)
    infos = {"study.orig.yaml", "study.partial.yaml", "study.expanded.yaml", "cmd.sh", "cmd.out", "cmd.err"}
    paths = {str(path.relative_to(workspace)) for path in workspace.rglob("*") if path.is_file()}
    of_steps = {path for path in paths if not path.startswith(("merlin_info/", "mrun_info/"))}
    assert of_steps == expected.keys()
    found = {path: (workspace / path).read_text() for path in of_steps}
    assert found == expected
    assert {f"merlin_info/{name}" for name in infos} <= paths
    assert (workspace / "merlin_info/study.orig.yaml").read_text() == textwrap.dedent(SPEC)
    scripts = [workspace / path for path in of_steps if path.endswith(".sh")]
    assert all(script.stat().st_mode & 0o100 for script in scripts), "scripts can be started directly"
    (status,) = study_home.json("status", study)
    assert status["state"] == "finished"
    told = {step["name"]: (step["finished"], step["failed"], step["skipped"]) for step in status["steps"]}
    assert told == STATES
    queues = {step["name"]: step["queues"] for step in status["steps"]}
    assert queues["sim run"] == queues["post"] == ["sims_0.5", "sims_1"]
    assert [queues[name] for name in ("both", "prep", "collect", "end")] == [
        ["features"], ["preps"], ["ends"], ["merlin"],
    ]  # fmt: skip


@pytest.mark.slow
def test_the_expanded_copy_of_that_study_is_the_same_study(study_home: Home) -> None:
    study_home.ok("queue", "study.yaml", "--dry")
    (first,) = study_home.study_dirs()
    for copy in ("expanded", "partial", "orig"):
        # From where the spec lies: $(SPECROOT) of the copies is another directory.
        (study_home.work / "again.yaml").write_bytes((first / f"merlin_info/study.{copy}.yaml").read_bytes())
        study_home.ok("queue", "again.yaml", "--dry")
        second = study_home.study_dirs()[-1]
        assert second != first
        assert scripts_below(second) == scripts_below(first), copy


def scripts_below(workspace: Path) -> dict[str, str]:
    """The scripts of steps, with the workspace's own name taken out."""
    return {
        str(path.relative_to(workspace)): path.read_text().replace(str(workspace), "WORKSPACE")
        for path in workspace.rglob("*.sh")
        if "merlin_info" not in path.parts
    }
