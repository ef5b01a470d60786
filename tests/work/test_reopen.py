"""A study that has ended is opened again: only what has to run does, also when the server has forgotten everything."""

from __future__ import annotations

import fcntl
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from mrun.engine.workspace.journal import Header, JournalWriter, read_journal
from tests.lab import Lab

SPEC = """
    description: {name: again, description: some samples fail until they are mended}
    study:
        - name: a
          description: fails where there is no file ok
          run:
              cmd: |
                  echo $(MERLIN_SAMPLE_ID) >> $LEDGER/a
                  [ $(( $(MERLIN_SAMPLE_ID) % 10 )) != 3 ] || [ -e $LEDGER/ok ]
        - name: b
          description: goes sample by sample
          run: {cmd: "echo $(MERLIN_SAMPLE_ID) >> $LEDGER/b", depends: [a]}
        - name: other
          description: has nothing to do with it
          run: {cmd: "echo $(MERLIN_SAMPLE_ID) >> $LEDGER/other"}
        - name: f
          description: a funnel
          run: {cmd: "echo f >> $LEDGER/f", depends: [b_*]}
    merlin:
        samples: {file: samples.npy, column_labels: [X]}
"""
BAD = {str(i) for i in range(3, 50, 10)}


@pytest.fixture
def ended(lab: Lab) -> str:
    """A study of 50 samples, of which five failed."""
    np.save(lab.directory / "samples.npy", np.arange(50.0))
    study = lab.queue(lab.spec(SPEC))
    lab.work("--queues", "merlin")
    status = lab.wait_for_end(study)
    assert (status["by_step"]["a"]["failed"], status["by_step"]["f"]["finished"]) == (5, 1)
    (lab.ledger_dir / "ok").touch()
    return study


def ran(lab: Lab) -> dict[str, Counter[str]]:
    """What was run since the last call."""
    counts = {}
    for name in ("a", "b", "other", "f"):
        counts[name] = lab.ledger(name)
        Path(lab.ledger_dir, name).unlink(missing_ok=True)
    return counts


def test_restart_runs_what_did_not_finish_and_what_is_behind_it(lab: Lab, ended: str) -> None:
    ran(lab)
    reopened = lab.json("restart", lab.study(ended)["workspace"])
    again = reopened["queued"]["study"]
    assert (again, reopened["again"]) == (f"{ended}.2", 11)
    status = lab.wait_for_end(again)
    # I expect the five failed samples, their children and the funnel, and all samples finished in the end
    assert ran(lab) == {"a": dict.fromkeys(BAD, 1), "b": dict.fromkeys(BAD, 1), "other": {}, "f": {"f": 1}}
    assert [status["by_step"][name]["finished"] for name in ("a", "b", "other", "f")] == [50, 50, 50, 1]
    assert status["failures"] == 0
    # and the old run to be replaced, and nothing left to do
    assert [one["study"] for one in lab.json("status")] == [again]
    assert lab.json("restart", again)["queued"] is None


@pytest.mark.slow
def test_restart_works_from_the_journal_when_the_server_has_forgotten_everything(lab: Lab, ended: str) -> None:
    workspace = lab.study(ended)["workspace"]
    ran(lab)
    lab.stop_workers()
    lab.server.client().flushall()
    assert f"mrun restart {workspace}" in lab.json("status", workspace, code=4)["error"]["hint"]
    again = lab.json("restart", workspace)["queued"]["study"]
    lab.work("--queues", "merlin")
    status = lab.wait_for_end(again)
    assert set(ran(lab)["a"]) == BAD
    assert status["failures"] == 0


@pytest.mark.slow
def test_restart_of_a_cancelled_study_runs_what_never_ran(lab: Lab) -> None:
    np.save(lab.directory / "samples.npy", np.arange(50.0))
    (lab.ledger_dir / "ok").touch()
    study = lab.queue(lab.spec(SPEC))
    lab.mrun("cancel", study)
    lab.wait_for_end(study)
    again = lab.json("restart", study)["queued"]["study"]
    lab.work("--queues", "merlin")
    assert lab.wait_for_end(again)["by_step"]["f"]["finished"] == 1
    assert set(ran(lab)["a"].values()) == {1}


@pytest.mark.slow
def test_study_that_still_runs_is_refused(lab: Lab) -> None:
    np.save(lab.directory / "samples.npy", np.arange(5.0))
    study = lab.queue(lab.spec(SPEC))
    assert "has not ended" in lab.json("restart", study, code=2)["error"]["message"]
    assert "no workspace of a study" in lab.json("restart", lab.directory, code=4)["error"]["message"]
    assert "neither a workspace nor a study" in lab.json("restart", "nowhere", code=4)["error"]["message"]


@pytest.mark.slow
def test_downstream_of_a_second_restart_is_not_taken_from_the_first_run(lab: Lab, ended: str) -> None:
    # Given a run of a restart that was cancelled before it did anything
    lab.stop_workers()
    again = lab.json("restart", ended)["queued"]["study"]
    lab.mrun("cancel", again)
    lab.wait_for_end(again)
    ran(lab)
    # When it is restarted once more, I expect the same samples to run as it had meant to run
    third = lab.json("restart", again)["queued"]["study"]
    lab.work("--queues", "merlin")
    lab.wait_for_end(third)
    counts = ran(lab)
    assert set(counts["b"]) == BAD
    assert counts["f"] == {"f": 1}


@pytest.mark.slow
def test_retry_runs_exactly_the_selection_and_what_is_behind_it(lab: Lab, ended: str) -> None:
    ran(lab)
    again = lab.json("retry", ended, "--step", "b", "--samples", "1-2,23")["queued"]["study"]
    status = lab.wait_for_end(again)
    assert ran(lab) == {"a": {}, "b": {"1": 1, "2": 1, "23": 1}, "other": {}, "f": {"f": 1}}
    # What was not selected keeps what it came to
    assert (status["by_step"]["a"]["failed"], status["by_step"]["a"]["finished"]) == (5, 45)
    third = lab.json("retry", again)["queued"]["study"]
    assert lab.wait_for_end(third)["failures"] == 0
    assert set(ran(lab)["a"]) == BAD
    lab.mrun("retry", third, "--step", "nosuch", code=4)
    lab.mrun("retry", third, "--samples", "3-1", code=2)


@pytest.mark.slow
def test_restart_of_steps_leaves_everything_else_as_it_is(lab: Lab) -> None:
    # Given a study of which nothing ran
    np.save(lab.directory / "samples.npy", np.arange(50.0))
    (lab.ledger_dir / "ok").touch()
    study = lab.queue(lab.spec(SPEC))
    lab.mrun("cancel", study)
    lab.wait_for_end(study)
    # When one step of it is restarted
    reopened = lab.json("restart", study, "--steps", "other")
    assert (reopened["again"], reopened["kept"], reopened["left"]) == (50, 101, 101)
    second = reopened["queued"]["study"]
    lab.work("--queues", "merlin")
    # I expect it to run alone; the rest is cancelled, or skipped because of that; and not to be called well
    steps = lab.wait_for_end(second)["by_step"]
    assert {name: len(counts) for name, counts in ran(lab).items()} == {"a": 0, "b": 0, "other": 50, "f": 0}
    assert [steps["a"]["cancelled"], steps["b"]["skipped"], steps["f"]["skipped"]] == [50, 50, 1]
    lab.mrun("wait", second, code=7)
    # When the steps that wait for what was left are restarted, I expect them to be skipped still
    third = lab.json("restart", second, "--steps", "b,f")["queued"]["study"]
    assert lab.wait_for_end(third)["by_step"]["b"]["skipped"] == 50
    # and the rest to run when nothing is left out
    fourth = lab.json("restart", third)["queued"]["study"]
    assert lab.wait_for_end(fourth)["failures"] == 0
    assert {name: len(counts) for name, counts in ran(lab).items()} == {"a": 50, "b": 50, "other": 0, "f": 1}


@pytest.mark.slow
def test_restart_of_steps_takes_what_depends_on_them_along(lab: Lab, ended: str) -> None:
    ran(lab)
    nothing = lab.mrun("restart", ended, "--steps", "other", "b")
    assert nothing == "nothing to run: 146 scripts finished, 5 that did not finish are left\n"
    again = lab.json("restart", ended, "--steps", "a", "other")["queued"]["study"]
    assert lab.wait_for_end(again)["failures"] == 0
    assert ran(lab) == {"a": dict.fromkeys(BAD, 1), "b": dict.fromkeys(BAD, 1), "other": {}, "f": {"f": 1}}
    hint = lab.json("restart", again, "--steps", "othr", code=4)["error"]["hint"]
    assert hint == "Did you mean 'other'?"


def test_retry_of_a_selection_runs_nothing_that_never_ran(lab: Lab) -> None:
    np.save(lab.directory / "samples.npy", np.arange(50.0))
    study = lab.queue(lab.spec(SPEC))
    lab.mrun("cancel", study)
    lab.wait_for_end(study)
    again = lab.json("retry", study, "--step", "other", "--samples", "4-6")["queued"]["study"]
    lab.work("--queues", "merlin")
    steps = lab.wait_for_end(again)["by_step"]
    assert ran(lab) == {"a": {}, "b": {}, "other": {"4": 1, "5": 1, "6": 1}, "f": {}}
    assert (steps["other"]["finished"], steps["other"]["cancelled"]) == (3, 47)


@pytest.mark.slow
def test_new_run_keeps_the_priority_of_the_old_one(lab: Lab, ended: str) -> None:
    study = lab.queue(lab.spec(SPEC), "--priority", "7")
    lab.wait_for_end(study)
    lab.stop_workers()
    again = lab.json("retry", study, "--step", "a", "--samples", "1")["queued"]["study"]
    assert lab.study(again)["priority"] == 7


@pytest.mark.slow
def test_new_run_counts_on_a_server_whose_clock_is_behind_that_of_the_old_one(lab: Lab, ended: str) -> None:
    # Given claims that were numbered by a clock an hour ahead, and a server that has lost everything
    place = Path(lab.study(ended)["workspace"])
    for path in (place / "mrun_info" / "journal").glob("*.journal"):
        records = list(read_journal(path))
        path.unlink()
        assert isinstance(records[0], Header)
        writer = JournalWriter(path, records[0])
        for record in records[1:]:
            assert not isinstance(record, Header)
            writer.write(replace(record, claim=record.claim + 3600 * 10**6))
        writer.close()
    with closing(lab.server.client()) as client:
        client.flushall()
    again = lab.json("restart", place)
    assert again["again"] == 11
    lab.work("--queues", "merlin")
    assert lab.wait_for_end(again["queued"]["study"])["state"] == "finished"
    # When it is opened once more, I expect that what the second run finished has finished
    assert lab.json("restart", place)["queued"] is None


@pytest.mark.slow
def test_workspace_that_was_moved_or_copied_is_refused_and_a_link_makes_it_whole(lab: Lab, ended: str) -> None:
    ran(lab)
    place = Path(lab.study(ended)["workspace"])
    copy = place.with_name("copy")
    shutil.copytree(place, copy)
    lab.mrun("restart", copy, code=3)
    moved = place.rename(place.with_name("moved"))
    for words in (("restart",), ("retry",), ("add", "--samplesfile", lab.directory / "samples.npy")):
        lab.mrun(words[0], moved, *words[1:], code=3)
    # When a link stands where it was, it may be named by either
    place.symlink_to(moved)
    again = lab.json("restart", moved)
    assert again["again"] == 11
    lab.wait_for_end(again["queued"]["study"])
    assert {name: sum(counts.values()) for name, counts in ran(lab).items()} == {"a": 5, "b": 5, "other": 0, "f": 1}


@pytest.mark.slow
def test_workspace_is_opened_again_by_one_command_at_a_time(lab: Lab, ended: str) -> None:
    place = Path(lab.study(ended)["workspace"])
    # Given one that is about to
    with (place / "mrun_info" / "opening.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in (("restart",), ("retry", "--failed"), ("add", "--samplesfile", lab.directory / "samples.npy")):
            lab.mrun(words[0], place, *words[1:], code=2)
        assert [one["study"] for one in lab.json("status")] == [ended]
    # When it has ended, I expect the next one to do it
    assert lab.json("restart", place)["again"] == 11
