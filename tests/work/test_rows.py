"""Rows of parameters that differ in more than their scripts, as users meet them: time limits, retries, failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.lab import Lab


def test_each_row_has_its_own_walltime(lab: Lab) -> None:
    # Given rows that all sleep, one of them with a limit that is shorter
    study = lab.queue(
        lab.spec("""
            description: {name: limits, description: x}
            study:
              - name: sim
                description: x
                run: {cmd: 'sleep $(NAP)', walltime: $(LIMIT)}
            global.parameters:
              NAP: {values: [0.1, 60, 0.1], label: NAP.%%}
              LIMIT: {values: ['1:00:00', 1, 0], label: LIMIT.%%}
        """)
    )
    lab.work("--queues", "merlin")
    status = lab.wait_for_end(study)
    step = status["by_step"]["sim"]
    assert (step["finished"], step["failed"]) == (2, 1)
    (failed,) = status["failed_samples"]
    assert failed["reason"] == "ran longer than its walltime of 1 s"
    assert "LIMIT.1.NAP.60" in str(failed)


@pytest.mark.slow
def test_a_worker_with_little_time_left_passes_over_the_rows_that_do_not_fit(lab: Lab) -> None:
    study = lab.queue(
        lab.spec("""
            description: {name: fits, description: x}
            study:
              - name: sim
                description: x
                run: {cmd: 'echo $(ROW) >> $LEDGER/sim', walltime: $(LIMIT)}
            global.parameters:
              ROW: {values: [1, 2, 3, 4, 5], label: ROW.%%}
              LIMIT: {values: ['10:00:00', 10, '20:00', '0', '0:20'], label: LIMIT.%%}
        """)
    )
    # When a worker comes whose allocation ends in ten minutes, it runs what has ten seconds, twenty, and no limit
    lab.work("--queues", "merlin", "--walltime", "600")
    wait_until(lambda: lab.study(study)["by_step"]["sim"]["finished"] == 3, "three rows are done")
    assert set(lab.ledger("sim")) == {"2", "4", "5"}
    assert lab.study(study)["by_step"]["sim"]["ready"] == 2
    # Then one that has an hour runs one row more, and one without an end the last
    lab.work("--queues", "merlin", "--walltime", "3600")
    wait_until(lambda: lab.study(study)["by_step"]["sim"]["finished"] == 4, "four rows are done")
    assert "1" not in lab.ledger("sim")
    lab.work("--queues", "merlin")
    assert lab.wait_for_end(study)["by_step"]["sim"]["finished"] == 5


@pytest.mark.slow
def test_each_row_has_its_own_shell_and_retries(lab: Lab) -> None:
    study = lab.queue(
        lab.spec("""
            description: {name: tries, description: x}
            study:
              - name: sim
                description: x
                run:
                  cmd: |
                    echo $0 >> $LEDGER/shell
                    echo $(TRIES) >> $LEDGER/tries
                    exit $(MERLIN_RETRY)
                  shell: /bin/$(SHELL)
                  max_retries: $(TRIES)
                  retry_delay: $(DELAY)
            global.parameters:
              SHELL: {values: [sh, bash], label: '%%'}
              TRIES: {values: [1, 3], label: TRIES.%%}
              DELAY: {values: [0, 0.1], label: DELAY.%%}
        """)
    )
    lab.work("--queues", "merlin")
    status = lab.wait_for_end(study)
    assert lab.ledger("tries") == {"1": 2, "3": 4}
    assert status["by_step"]["sim"]["failed"] == 2
    scripts = sorted(Path(status["workspace"], "sim").glob("*/*.sh"))
    assert {script.read_text().split("\n")[0] for script in scripts} == {"#!/bin/sh", "#!/bin/bash"}


@pytest.mark.slow
def test_a_row_may_abort_the_study_where_others_go_on(lab: Lab) -> None:
    study = lab.queue(
        lab.spec("""
            description: {name: moods, description: x}
            study:
              - {name: sim, description: x, run: {cmd: 'exit 1', on_failure: $(MOOD), task_queue: $(MOOD)}}
              - {name: after, description: x, run: {cmd: 'echo $(MOOD) >> $LEDGER/after', depends: [sim]}}
            global.parameters:
              MOOD: {values: [continue, skip, abort], label: '%%'}
        """)
    )
    lab.work("--queues", "continue,skip,merlin")
    wait_until(lambda: lab.study(study)["by_step"]["after"]["skipped"] == 1, "one row was skipped")
    wait_until(lambda: lab.ledger("after") == {"continue": 1}, "one row went on")
    assert lab.study(study)["state"] == "running"
    lab.work("--queues", "abort")
    assert lab.wait_for_end(study)["state"] == "failed"


@pytest.mark.slow
def test_each_row_has_its_own_max_fails(lab: Lab) -> None:
    (lab.directory / "samples.csv").write_text("1\n2\n3\n4\n")
    study = lab.queue(
        lab.spec("""
            description: {name: fails, description: x}
            study:
              - {name: sim, description: x, run: {cmd: 'exit 1 # $(X)', max_fails: $(MOST), task_queue: q$(MOST)}}
            global.parameters: {MOST: {values: [4, 1], label: MOST.%%}}
            merlin: {samples: {file: samples.csv, column_labels: [X]}}
        """)
    )
    lab.work("--queues", "q4")
    wait_until(lambda: lab.study(study)["by_step"]["sim"]["failed"] == 4, "a row may fail as a whole")
    assert lab.study(study)["state"] == "running"
    lab.work("--queues", "q1")
    status = lab.wait_for_end(study)
    assert status["state"] == "failed"
    assert "max_fails" in status["why"]


@pytest.mark.slow
def test_what_failed_before_counts_in_a_later_run_as_its_row_says(lab: Lab) -> None:
    # Given a row that blocks what depends on it, and one that does not
    study = lab.queue(
        lab.spec("""
            description: {name: again, description: x}
            study:
              - {name: sim, description: x, run: {cmd: 'exit 1', on_failure: $(MOOD)}}
              - {name: after, description: x, run: {cmd: 'echo $(MOOD) >> $LEDGER/after', depends: [sim]}}
            global.parameters: {MOOD: {values: [continue, skip], label: '%%'}}
        """)
    )
    lab.work("--queues", "merlin")
    assert lab.wait_for_end(study)["by_step"]["after"]["skipped"] == 1
    # When what depends on them runs again, and they do not
    again = lab.json("retry", study, "--step", "after")["queued"]["study"]
    step = lab.wait_for_end(again)["by_step"]["after"]
    # I expect the journal to be read by the terms of each row
    assert (step["finished"], step["skipped"]) == (1, 1)
    assert lab.ledger("after") == {"continue": 2}
