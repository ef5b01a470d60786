"""Samples are added to a study: the old ones keep their place, and what waits for all of them runs over all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import wait_until
from tests.lab import Lab

SPEC = """
    description: {name: more, description: a chain and its funnel}
    study:
        - name: a
          description: waits while there is a file
          run:
              cmd: |
                  while [ -e $LEDGER/hold ]; do sleep 0.05; done
                  echo "$(MERLIN_SAMPLE_ID):$(X)" >> $LEDGER/a
        - name: b
          description: goes sample by sample
          run: {cmd: "echo $(MERLIN_SAMPLE_ID):$(MERLIN_SAMPLE_PATH) >> $LEDGER/b", depends: [a], task_queue: other}
        - name: f
          description: a funnel
          run:
              cmd: |
                  while [ -e $LEDGER/hold-f ]; do sleep 0.05; done
                  echo $(MERLIN_PATHS_ALL) > paths
                  ls -d $(a.workspace)/$(MERLIN_GLOB_PATH) | wc -l >> $LEDGER/f
              depends: [b_*]
              task_queue: other
    merlin:
        samples: {file: samples.npy, column_labels: [X], level_max_dirs: 3}
"""


def queue(lab: Lab, count: int, spec: str = SPEC) -> str:
    np.save(lab.directory / "samples.npy", np.arange(float(count)))
    return lab.queue(lab.spec(spec))


def more(lab: Lab, *texts: str) -> Path:
    path = lab.directory / "more.csv"
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


@pytest.mark.slow
def test_ended_study_runs_only_what_was_added_and_its_funnel_again(lab: Lab) -> None:
    # Given a study of 5 samples that has ended
    study = queue(lab, 5)
    lab.work("--queues", "merlin,other")
    lab.wait_for_end(study)
    workspace = Path(lab.study(study)["workspace"])
    # When nine are added, by a table of another kind
    added = lab.json("add", "last", "--samplesfile", more(lab, *"pqrstuvwx"))
    assert (added["added"], added["run"], added["is_new_run"]) == (9, 2, True)
    assert "look different" in added["warnings"][0]
    status = lab.wait_for_end(added["queued"]["study"])
    # I expect each sample once over both runs, the old ones in their old places, the new ones as deep
    numbers = [f"{i}:{i}.0" for i in range(5)] + [f"{i + 5}:{x}" for i, x in enumerate("pqrstuvwx")]
    assert lab.ledger("a") == dict.fromkeys(numbers, 1)
    assert lab.ledger("b") == {f"{i}:{i // 3}/{i % 3}": 1 for i in range(14)}
    assert lab.ledger("f") == {"5": 1, "14": 1}
    assert (workspace / "f" / "paths").read_text().split() == [f"{i // 3}/{i % 3}" for i in range(14)]
    assert [status["by_step"][name]["finished"] for name in "abf"] == [14, 14, 1]
    # and a restart to have nothing to do, also when the server has forgotten the study
    assert lab.json("restart", workspace)["queued"] is None
    lab.stop_workers()
    lab.server.client().flushall()
    assert lab.json("restart", workspace)["queued"] is None


def test_running_study_takes_samples_in_the_same_run(lab: Lab) -> None:
    # Given a study whose first samples run
    (lab.ledger_dir / "hold").touch()
    study = queue(lab, 5)
    lab.work("--queues", "merlin,other", "--slots", 2)
    wait_until(lambda: lab.study(study)["by_step"]["a"]["running"] > 0, "samples run")
    # When samples are added twice
    assert lab.json("add", study, "--samplesfile", more(lab, "1.5", "2.5"))["queued"]["study"] == study
    added = lab.json("add", lab.study(study)["workspace"], "--samplesfile", more(lab, "3.5"))
    assert (added["added"], added["queued"]["sample_count"], added["is_new_run"]) == (1, 8, False)
    assert lab.study(study)["by_step"]["a"]["samples"] == 8
    (lab.ledger_dir / "hold").unlink()
    status = lab.wait_for_end(study)
    # I expect the worker, which had its plan already, to run all, and one funnel over all
    assert lab.ledger("a") == dict.fromkeys([*(f"{i}:{i}.0" for i in range(5)), "5:1.5", "6:2.5", "7:3.5"], 1)
    assert lab.ledger("f") == {"8": 1}
    assert status["failures"] == 0


@pytest.mark.slow
def test_study_whose_funnel_has_begun_is_refused_or_waited_for(lab: Lab) -> None:
    # Given a funnel that runs
    (lab.ledger_dir / "hold-f").touch()
    study = queue(lab, 4)
    lab.work("--queues", "merlin,other", "--slots", 2)
    wait_until(lambda: lab.study(study)["by_step"]["f"]["running"] == 1, "the funnel runs")
    # I expect a refusal that says what to do, and nothing to have changed
    words = ["add", study, "--samplesfile", more(lab, "9")]
    error = lab.json(*words, code=2)["error"]
    assert "takes no more samples while it runs" in error["message"]
    assert "--wait" in error["hint"]
    assert lab.study(study)["by_step"]["a"]["samples"] == 4
    # When one waits with --wait, I expect a new run after the funnel's end
    waiting = lab.start(*words, "--wait")
    (lab.ledger_dir / "hold-f").unlink()
    added = json.loads(waiting.communicate(timeout=60)[0])
    lab.wait_for_end(added["queued"]["study"])
    assert (added["run"], lab.ledger("f")) == (2, {"4": 1, "5": 1})
    assert len(lab.ledger("a")) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "words", "code"),
    [
        (["1,2"], "2 columns", 3),
        ([], "holds no samples", 3),
    ],
)
def test_unfit_table_changes_nothing(lab: Lab, rows: list[str], words: str, code: int) -> None:
    study = queue(lab, 5)
    workspace = Path(lab.study(study)["workspace"])
    before = {*workspace.rglob("*"), workspace / "mrun_info" / "opening.lock"}
    assert words in lab.json("add", study, "--samplesfile", more(lab, *rows), code=code)["error"]["message"]
    assert "no sample file" in lab.json("add", study, "--samplesfile", "nowhere.npy", code=4)["error"]["message"]
    assert set(workspace.rglob("*")) == before
    assert lab.study(study)["by_step"]["a"]["samples"] == 5


@pytest.mark.slow
def test_study_of_one_sample_or_of_none_takes_no_more(lab: Lab) -> None:
    study = queue(lab, 1)
    assert "none fits beside it" in lab.json("add", study, "--samplesfile", more(lab, "1"), code=2)["error"]["message"]
    none = lab.queue(
        lab.spec("""
        description: {name: none, description: no samples}
        study: [{name: a, description: a step, run: {cmd: "true"}}]
    """)
    )
    assert "has no samples" in lab.json("add", none, "--samplesfile", more(lab, "1"), code=2)["error"]["message"]


@pytest.mark.slow
def test_share_of_samples_that_may_fail_is_one_of_all_of_them(lab: Lab) -> None:
    # Given four samples of which half may fail, and of which three will
    spec = """
        description: {name: share, description: d}
        study: [{name: a, description: d, run: {cmd: "exit $(X)", max_fails: 50%, task_queue: q}}]
        merlin: {samples: {file: samples.npy, column_labels: [X]}}
    """
    np.save(lab.directory / "samples.npy", np.array([1, 1, 1, 0]))
    study = lab.queue(lab.spec(spec))
    # When four good ones are added before any has run, I expect the study to come to its end
    lab.mrun("add", study, "--samplesfile", more(lab, *"0000"))
    lab.work("--queues", "q")
    status = lab.wait_for_end(study)
    assert (status["state"], status["by_step"]["a"]["failed"], status["by_step"]["a"]["finished"]) == ("finished", 3, 5)
