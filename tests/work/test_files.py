"""Three ways to keep the files of samples, by real workers: what scripts do and print is the same in all of them."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import wait_until
from tests.lab import Lab

WAYS = ("full", "lean", "packed")
SMALL_WAYS = ("lean", "packed")


def spec(lab: Lab, way: str, steps: str, samples: Any, columns: str = "X") -> Path:
    """A spec whose steps are given as YAML, with a table of samples."""
    np.save(lab.directory / f"{way}.npy", np.array(samples))
    indented = "\n".join(f"            {line}" for line in steps.strip("\n").splitlines())
    return lab.spec(
        f"""
        description: {{name: {way}, description: a test}}
        study:
{indented}
        merlin:
            samples: {{file: {way}.npy, column_labels: [{columns}], level_max_dirs: 2, files: {way}}}
        """,
        f"{way}.yaml",
    )


def run(lab: Lab, way: str, steps: str, samples: Any) -> Path:
    """Run a study to its end with one worker; its workspace."""
    study = lab.queue(spec(lab, way, steps, samples))
    lab.mrun("work", "--queues", "merlin", "--slots", "2", "--exit-when-done", "--lease", "2")
    return Path(lab.study(study)["workspace"])


def texts(directory: Path, workspace: Path | None = None) -> dict[str, str]:
    """Contents of all .out and .err below a directory, by path; what the workspace is called is taken out."""
    return {
        str(path.relative_to(directory)): path.read_text().replace(str(workspace), "WORKSPACE")
        for path in sorted(directory.rglob("*"))
        if path.suffix in (".out", ".err")
    }


STEPS = r"""
- name: sh
  description: quotes, arithmetic, its own name, and both streams
  run:
      shell: /bin/sh
      cmd: |
          cat <<'END'
          $(X) | $(MERLIN_SAMPLE_ID) | $(MERLIN_SAMPLE_PATH) | $(WORKSPACE)
          END
          echo $(( $(MERLIN_SAMPLE_ID) + 1 )) $# >&2
          exit $(MERLIN_SAMPLE_ID)
- name: named
  description: asks for its name
  run: {shell: /bin/bash, cmd: 'echo $(MERLIN_SAMPLE_ID) ${0##*/}; [ "${BASH_SOURCE%/*}" = "$PWD" ] || echo elsewhere'}
- name: python
  description: Python, which looks for modules beside its script
  run:
      shell: /usr/bin/env python3
      cmd: |
          import os, sys
          print(r'''$(X)''', len(sys.argv), sys.path[0] == os.getcwd(), os.path.basename(__file__))
- name: silent
  description: says nothing
  run: {cmd: "true $(MERLIN_SAMPLE_ID)"}
- name: all
  description: no samples
  run: {cmd: "echo after", depends: [sh_*]}
"""
VALUES = ["plain", "it's", 'a "b"', "$HOME `id` \\n", "; exit 9", "ünïcode", "$(X)"]


@pytest.mark.slow
def test_scripts_print_the_same_in_all_three_ways(lab: Lab, tmp_path: Path) -> None:
    # Given samples whose values no rule of quoting could hand over
    found = {}
    for way in WAYS:
        workspace = run(lab, way, STEPS, VALUES)
        # When their outputs are written out
        lab.mrun("extract", workspace, "-o", tmp_path / way)
        found[way] = texts(tmp_path / way, workspace)
        status = lab.json("status", workspace)[0]["steps"][0]
        assert (status["finished"], status["failed"]) == (1, len(VALUES) - 1)
    # I expect the same trees, of which lean has no empty files
    full = found["full"]
    assert len(full) == 2 * (4 * len(VALUES) + 1)
    assert full["sh/0/0/1/sh.out"] == "it's | 1 | 0/0/1 | WORKSPACE/sh\n"
    assert full["python/0/1/0/python.out"].endswith(" 1 True python.sh\n")
    assert full["named/0/1/0/named.out"] == "2 named.sh\n"
    assert found["packed"] == full
    assert found["lean"] == {path: text for path, text in full.items() if text or path.startswith("all/")}


@pytest.mark.slow
def test_only_what_a_way_promises_is_left_in_the_workspace(lab: Lab, tmp_path: Path) -> None:
    # Given a directory for scratch files that nobody else uses
    lab.environment["TMPDIR"] = str(tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    steps = """
- name: a
  description: even samples print
  run: {cmd: "[ $(( $(MERLIN_SAMPLE_ID) % 2 )) = 1 ] || echo $(X)", restart: "echo again $(X)"}
"""
    # When 5 samples have run in either way
    lean, packed = (run(lab, way, steps, [0.5, 1.5, 2.5, 3.5, 4.5]) for way in SMALL_WAYS)
    # I expect of lean ones their directories, output that is not empty, and the scripts of the node
    assert {str(path.relative_to(lean / "a")) for path in (lean / "a").rglob("*") if path.is_file()} == {
        *("a.sh", "a.restart.sh", "0/0/0/a.out", "0/1/0/a.out", "1/0/0/a.out"),
    }
    assert len([path for path in (lean / "a").rglob("*/*/*") if path.is_dir()]) == 5
    assert (lean / "a/a.restart.sh").read_text() == "#!/bin/bash\n\necho again $(X)\n"
    assert not (lean / "mrun_info/scratch").exists()
    # … and of packed ones a segment and its index
    assert sorted(path.name for path in (packed / "a").iterdir()) == ["a.restart.sh", "a.sh"]
    assert sorted(path.suffix for path in (packed / "mrun_info/packed").iterdir()) == [".idx", ".seg"]
    assert list((tmp_path / "tmp").glob("mrun-scratch-*")) == []


@pytest.mark.slow
def test_logs_print_what_is_asked_for(lab: Lab) -> None:
    steps = """
- name: a
  description: prints
  run: {cmd: "echo out $(X); echo err $(X) >&2"}
- name: b
  description: prints, too
  run: {cmd: "echo other $(X)"}
"""
    for way in WAYS:
        workspace = run(lab, way, steps, [0, 1, 2, 3])
        assert lab.mrun("logs", workspace, "--step", "a", "--samples", "2") == "out 2\n"
        assert lab.mrun("logs", workspace, "--step", "a", "--samples", "0,2-3", "--stderr") == (
            "==> a, sample 0 <==\nerr 0\n==> a, sample 2 <==\nerr 2\n==> a, sample 3 <==\nerr 3\n"
        )
        assert lab.json("logs", workspace, "--samples", "1") == [
            {"step": "a", "instance": "a", "sample": 1, "stream": "stdout", "text": "out 1\n"},
            {"step": "b", "instance": "b", "sample": 1, "stream": "stdout", "text": "other 1\n"},
        ]
        assert lab.mrun("logs", "last", "--step", "b", "-q") == "other 0\nother 1\nother 2\nother 3\n"
        lab.mrun("logs", workspace, "--step", "c", code=4)


RESTARTING = """
- name: a
  description: asks for its restart script
  run:
      cmd: echo first ${MRUN_RESUME:-0}; exit $(MERLIN_RESTART)
      restart: echo $(X) again $MRUN_RESUME $MRUN_ATTEMPT
      retry_delay: 0
"""


@pytest.mark.slow
@pytest.mark.parametrize(("way", "expected"), [
    ("full", "first 0\n1 again 1 1\n"), ("lean", "first 0\n1 again 1 1\n"), ("packed", "1 again 1 1\n"),
])  # fmt: skip
def test_restart_scripts_run_in_every_way(lab: Lab, way: str, expected: str) -> None:
    workspace = run(lab, way, RESTARTING, [0, 1])
    assert lab.mrun("logs", workspace, "--samples", "1") == expected


HANGING = """
- name: a
  description: the first execution of sample 2 never ends
  run:
      cmd: |
          echo cmd $(X) ${MRUN_RESUME:-0}
          echo $(X) >> $LEDGER/a
          if [ $(X) = 2 ] && [ ! -e $LEDGER/again ]; then touch $LEDGER/again; exec sleep 1000; fi
      restart: echo restart $(X) $MRUN_RESUME
      chunk: 8
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_only_the_sample_that_a_killed_worker_ran_is_resumed(lab: Lab, way: str) -> None:
    # Given a worker that has run two samples of its claim, and is in the middle of the third
    study = lab.queue(spec(lab, way, HANGING, list(range(8))))
    victim = lab.work("--queues", "merlin", "--slots", "1", "--lease", "1")
    wait_until(lambda: (lab.ledger_dir / "again").exists(), "the third sample runs")
    wait_until(lambda: lab.study(study)["by_step"]["a"]["finished"] == 2, "the others are accounted")
    if way == "lean":
        # … and has made the directory of the fourth
        next_one = Path(lab.study(study)["workspace"]) / "a/0/1/1"
        assert next_one.stat().st_mode & stat.S_ISVTX
    # When it is killed in the middle of a write to its index
    os.kill(lab.engine_of(victim), signal.SIGKILL)
    victim.wait(timeout=20)
    workspace = Path(lab.study(study)["workspace"])
    for index in (workspace / "mrun_info/packed").glob("*.idx"):
        with index.open("ab") as file:
            file.write(b"\7" * 20)
    # … and another one takes over
    lab.mrun("work", "--queues", "merlin", "--slots", "1", "--exit-when-done", "--lease", "1")
    # I expect that the one that hung is resumed, and nobody's output is lost
    assert lab.study(study)["by_step"]["a"]["finished"] == 8
    shown = lab.mrun("logs", workspace, "-q").splitlines()
    assert shown == [*(f"cmd {n} 0" for n in range(2)), "restart 2 1", *(f"cmd {n} 0" for n in range(3, 8))]
    assert set(lab.ledger("a").values()) == {1}
    assert not any(path.stat().st_mode & stat.S_ISVTX for path in (workspace / "a").rglob("*"))


@pytest.mark.slow
def test_output_of_a_lost_execution_is_kept_apart_in_lean_directories(lab: Lab) -> None:
    # Given a sample that printed, asked to be run again, and hangs in its second execution
    steps = """
- name: a
  description: prints, then hangs
  run:
      cmd: |
          echo $(X) attempt $MRUN_ATTEMPT of claim
          [ $MRUN_ATTEMPT = 0 ] && exit $(MERLIN_RETRY)
          [ -e $LEDGER/again ] || { touch $LEDGER/again; exec sleep 1000; }
      retry_delay: 0
"""
    study = lab.queue(spec(lab, "lean", steps, [5, 6]))
    victim = lab.work("--queues", "merlin", "--slots", "1", "--lease", "1")
    wait_until(lambda: (lab.ledger_dir / "again").exists(), "the second execution runs")
    # When its worker is killed, and another one takes over
    os.kill(lab.engine_of(victim), signal.SIGKILL)
    victim.wait(timeout=20)
    lab.mrun("work", "--queues", "merlin", "--exit-when-done", "--lease", "1")
    # I expect that what was there has another name, and the last execution's output has the usual one
    directory = Path(lab.study(study)["workspace"], "a")
    lost = list(directory.rglob("a.out.lost-*"))
    assert [path.read_text() for path in lost] == ["5 attempt 0 of claim\n"]
    assert (lost[0].parent / "a.out").read_text() == "5 attempt 1 of claim\n"


@pytest.mark.slow
def test_a_packed_sample_sees_nothing_of_the_one_before(lab: Lab) -> None:
    # Given samples that leave files, directories, a link to everything, and a process that goes on
    steps = """
- name: a
  description: litters
  run:
      cmd: |
          ls -A | wc -l
          touch $(X).txt .hidden; mkdir -p deep/er; ln -s / root
          (while :; do echo late; sleep 0.01; done) &
"""
    workspace = run(lab, "packed", steps, list(range(20)))
    # I expect that each finds an empty directory, and its own output only
    printed = lab.json("logs", workspace)
    assert [one["sample"] for one in printed] == list(range(20))
    for first, *rest in (one["text"].splitlines() for one in printed):
        assert first.strip() == "0"
        assert set(rest) <= {"late"}


@pytest.mark.slow
def test_what_a_lean_sample_left_running_writes_to_its_own_file(lab: Lab) -> None:
    # Given a sample that ends before a process of its does, and one after it in the same slot
    steps = """
- name: a
  description: leaves a process behind
  run:
      cmd: |
          [ $(X) = 0 ] || { sleep 0.2; exit; }
          { while [ ! -e $LEDGER/go ]; do sleep 0.01; done; echo late; touch $LEDGER/gone; } &
"""
    study = lab.queue(spec(lab, "lean", steps, [0, 1, 2]))
    lab.work("--queues", "merlin", "--slots", "1")
    wait_until(lambda: lab.study(study)["by_step"]["a"]["finished"] == 3, "all samples have ended")
    # When that process prints at last
    (lab.ledger_dir / "go").touch()
    wait_until(lambda: (lab.ledger_dir / "gone").exists(), "it has printed")
    # I expect it in the output of the sample that started it
    workspace = Path(lab.study(study)["workspace"])
    assert texts(workspace / "a") == {"0/0/a.out": "late\n", "0/0/a.err": ""}


def test_check_tells_inodes_of_all_ways_and_warns_of_what_packed_samples_do_not_leave(lab: Lab) -> None:
    steps = """
- name: a
  description: samples
  run: {cmd: "echo $(X)"}
- name: b
  description: collects
  run: {cmd: "cat $(a.workspace)/$(MERLIN_GLOB_PATH)/a.out", depends: [a_*]}
"""
    for way, warnings in (("full", 0), ("lean", 0), ("packed", 1)):
        found = lab.json("check", spec(lab, way, steps, list(range(1000))))
        inodes = {one["files"]: one["inodes"] for one in found["ways"]}
        assert (found["kept"], found["inodes"]) == (way, inodes[way])
        assert inodes["full"] > 5000 > inodes["lean"] > 1000 > 40 > inodes["packed"]
        assert len([text for text in found["warnings"] if "'$(a.workspace)': with 'files: packed'" in text]) == warnings


HARMFUL = """
    description: {name: one, description: one step}
    study:
        - name: a
          description: a step
          run: {cmd: "echo $(X); echo $(X) >> $LEDGER/a; case $(X) in 3*) DEED ;; esac", chunk: 1}
    merlin:
        samples: {file: samples.npy, column_labels: [X], files: WAY}
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["full", "lean", "packed"])
@pytest.mark.parametrize("deed", ["rm -rf $PWD", "chmod -R a-w $PWD", "chmod 000 $PWD"])
def test_sample_that_removes_or_locks_its_directory_runs_once_and_is_finished(lab: Lab, way: str, deed: str) -> None:
    assert_runs_once(lab, HARMFUL.replace("DEED", deed).replace("WAY", way), 10)


def test_packed_sample_that_empties_the_temporary_directory_harms_no_other(lab: Lab) -> None:
    (lab.directory / "tmp").mkdir()
    lab.environment["TMPDIR"] = str(lab.directory / "tmp")
    assert_runs_once(lab, HARMFUL.replace("DEED", "rm -rf $TMPDIR/* || true").replace("WAY", "packed"), 30)
    assert not list((lab.directory / "tmp").iterdir())


def queue_and_run(lab: Lab, text: str, samples: int) -> str:
    np.save(lab.directory / "samples.npy", np.arange(float(samples)))
    study = lab.queue(lab.spec(text))
    worker = lab.work("--queues", "merlin", "--slots", "2", "--exit-when-done")
    assert worker.wait(timeout=60) == 0, lab.logs()
    return study


def assert_runs_once(lab: Lab, text: str, samples: int) -> None:
    study = queue_and_run(lab, text, samples)
    assert lab.study(study)["by_step"]["a"]["finished"] == samples
    assert sorted(lab.ledger("a").values()) == [1] * samples


def test_failed_packed_sample_is_shown_with_how_to_see_what_it_printed(lab: Lab) -> None:
    study = queue_and_run(lab, HARMFUL.replace("DEED", "exit 1").replace("WAY", "packed"), 5)
    told = lab.mrun("status", study)
    assert f"mrun logs {study} --step a --samples 3 --stderr" in told
    assert "  in /" not in told
    assert lab.mrun("logs", study, "--step", "a", "--samples", "3").endswith("3.0\n")
    lab.mrun("logs", study, "--step", "a", "--samples", "3", "--stderr")
