"""What steps do to the worker that runs them: nothing. Descriptors, zombies, floods, daemons, kills."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import wait_until
from tests.lab import Lab

#: MRUN_TEST_SAMPLES=10000 and MRUN_TEST_FLOOD_MB=1024 try what is promised; these are for every day.
SAMPLES = int(os.environ.get("MRUN_TEST_SAMPLES", "1200"))
FLOOD_BYTES = int(os.environ.get("MRUN_TEST_FLOOD_MB", "64")) << 20

SPEC = """
    description: {{name: one, description: one step}}
    study:
        - name: a
          description: a step
          run:
              cmd: |
{cmd}
              {options}
    merlin:
        samples: {{file: samples.npy, column_labels: [X]{files}}}
"""


def queue(lab: Lab, cmd: str, samples: int, options: str = "", files: str = "") -> str:
    np.save(lab.directory / "samples.npy", np.arange(float(samples)))
    lines = "\n".join(" " * 18 + line for line in cmd.splitlines())
    return lab.queue(lab.spec(SPEC.format(cmd=lines, options=options, files=files and f", files: {files}")))


def descriptors(pids: list[int]) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def children(pid: int) -> Iterator[tuple[str, str]]:
    """Name and state of each."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        name, _, rest = Path(f"/proc/{child}/stat").read_text().partition("(")[2].rpartition(")")
        yield name, rest.split()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "options"), [("full", ""), ("lean", ""), ("packed", ""), ("full", "warm: true"), ("lean", "warm: true")]
)
def test_worker_has_no_more_descriptors_and_children_after_thousands_of_samples_than_after_a_few(
    lab: Lab, files: str, options: str
) -> None:
    study = queue(lab, "echo $(X) >> $LEDGER/a", SAMPLES, options, files)
    worker = lab.work("--queues", "merlin", "--slots", "2")
    wait_until(lambda: len(lab.ledger("a")) >= 100, "a few have run")
    pids = [worker.pid, lab.engine_of(worker)]
    early = descriptors(pids)
    status = lab.wait_for_end(study, 60 + SAMPLES / 50)
    assert status["by_step"]["a"]["finished"] == SAMPLES
    # Two slots: of each a sample may have ended, and the next not begun, when they were counted
    assert descriptors(pids) <= early + 4, (early, descriptors(pids))
    # Warm shells stay, one for each slot
    left = list(children(pids[1]))
    assert len(left) <= (2 if options else 0), left
    assert not [one for one in left if one[1] == "Z"]
    assert [state for _, state in children(pids[0])].count("Z") == 0


BEHAVIOURS = """\
case $(MERLIN_SAMPLE_ID) in
0) exec 1>&- 2>&- 0<&- ;;
1) head -c {flood} /dev/zero ;;
2) trap '' TERM; echo ready; while :; do sleep 1; done ;;
3) (setsid sh -c 'sleep 600 & echo $! > $LEDGER/daemon' &) ; while [ ! -s $LEDGER/daemon ]; do sleep 0.01; done ;;
4) kill -9 $$ ;;
5) ulimit -v 300000; exec $MRUN_PYTHON -c 'bytearray(1 << 30)' ;;
6) kill -SEGV $$ ;;
7) exec sh -c 'kill -STOP $$' ;;
*) echo well >> $LEDGER/well ;;
esac
"""
#: Sample → what its reason says.
REASONS = {2: "walltime of 4 s", 4: "killed by SIGKILL", 5: "exit code 1", 6: "killed by SIGSEGV", 7: "walltime of 4 s"}


# Warm steps are refused what half of these do (see test_warm.py)
@pytest.mark.slow
@pytest.mark.parametrize("files", ["full", "lean", "packed"])
def test_each_misbehaving_step_is_accounted_for_with_its_reason_and_harms_no_other(lab: Lab, files: str) -> None:
    options = "walltime: 4\n              chunk: 1"
    study = queue(lab, BEHAVIOURS.format(flood=FLOOD_BYTES), 40, options, files)
    worker = lab.work("--queues", "merlin", "--slots", "4")
    status = lab.wait_for_end(study, 100)
    failed = {one["sample"]: one["reason"] for one in status["failed_samples"]}
    assert failed.keys() == REASONS.keys()
    assert all(REASONS[sample] in failed[sample] for sample in failed), failed
    assert status["by_step"]["a"]["finished"] == 40 - len(REASONS)
    assert lab.ledger("well") == {"well": 32}
    # What was flooded is kept whole
    flooded = lab.mrun("logs", study, "--step", "a", "--samples", "1", timeout_s=120)
    assert flooded.count("\0") == FLOOD_BYTES
    # The daemon goes with its worker at the latest
    daemon = int((lab.ledger_dir / "daemon").read_text())
    worker.terminate()
    assert worker.wait(timeout=20) == 0
    wait_until(lambda: not Path(f"/proc/{daemon}").exists(), "the daemon is gone")


@pytest.mark.slow
def test_cancelled_step_that_ignores_sigterm_is_killed_with_what_it_started(lab: Lab) -> None:
    study = queue(lab, ": $(X)\ntrap '' TERM\nsleep 600 &\necho up >> $LEDGER/up\nwhile :; do sleep 1; done", 2)
    lab.work("--queues", "merlin", "--slots", "2")
    wait_until(lambda: lab.ledger("up")["up"] == 2, "both run")
    lab.mrun("cancel", study)
    status = lab.wait_for_end(study, 40)
    assert (status["state"], status["by_step"]["a"]["cancelled"]) == ("cancelled", 2)
    wait_until(lambda: not [one for one in lab.leftovers() if "sleep" in one], "nothing of it is left")


@contextmanager
def small_memory(limit_bytes: int) -> Iterator[Path]:
    """A control group that may use no more, of either version; its processes are in `cgroup.procs`."""
    for root, limit in (("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
        group = Path(root, f"mrun-test-{os.getpid()}")
        if not os.access(root, os.W_OK) or not Path(root, "cgroup.procs").exists():
            continue
        group.mkdir()
        try:
            if (group / limit).exists():
                (group / limit).write_text(str(limit_bytes))
                yield group
                return
        finally:
            wait_until(lambda: not (group / "cgroup.procs").read_text(), "nobody is in it")  # noqa: B023 - called here
            group.rmdir()
    pytest.skip("no limit of memory can be set here")


def test_step_that_the_kernel_kills_for_its_memory_is_accounted_for_and_harms_no_other(lab: Lab) -> None:
    with small_memory(64 << 20) as group:
        grow = "$MRUN_PYTHON -c 'x = bytearray(1 << 30)'"
        cmd = f"[ $(MERLIN_SAMPLE_ID) = 1 ] || exit 0\necho $$ > {group}/cgroup.procs\nexec {grow}"
        study = queue(lab, cmd, 4)
        lab.work("--queues", "merlin", "--slots", "2")
        status = lab.wait_for_end(study)
        assert status["by_step"]["a"]["finished"] == 3
        assert [(one["sample"], one["reason"]) for one in status["failed_samples"]] == [(1, "killed by SIGKILL")]


#: SIGTERM does not end it, or half a second later.
PROGRAM = """\
import os, signal, sys, time
def end(*_):
    time.sleep(0.5)
    open(os.environ["LEDGER"] + "/saved", "a").write("yes\\n")
    sys.exit()
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "ignores" else end)
open(os.environ["LEDGER"] + "/up", "a").write(f"{os.getpid()}\\n")
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "files", "option"),
    [
        ("walltime", "full", ""),
        ("cancel", "packed", "warm: true"),
        ("drain", "full", ""),
        ("drain", "packed", ""),
        ("drain", "full", "warm: true"),
    ],
)
def test_program_below_the_shell_of_a_step_has_its_grace_and_does_not_survive_it(
    lab: Lab, how: str, files: str, option: str
) -> None:
    # Given shells, which SIGTERM ends at once, and programs that it does not
    (lab.directory / "program.py").write_text(PROGRAM)
    cmd = f'case $(X) in 0*) does=ignores ;; *) does=saves ;; esac\n$MRUN_PYTHON {lab.directory}/program.py "$does"\n:'
    walltime = "walltime: 3" if how == "walltime" else ""
    study = queue(lab, cmd, 2, f"{walltime}\n              {option}", files)
    worker = lab.work("--queues", "merlin", "--slots", "2")
    wait_until(lambda: len(lab.ledger("up")) == 2, "both run")
    if how == "drain":
        worker.terminate()
        wait_until(lambda: "worker_signalled" in lab.logs(), "it drains")
        worker.terminate()
        assert worker.wait(timeout=20) == 0
        assert lab.study(study)["by_step"]["a"]["ready"] == 2
    else:
        if how == "cancel":
            lab.mrun("cancel", study)
        lab.wait_for_end(study, 40)
    # I expect one to have had its time, and the other to be gone when the sample is accounted
    assert lab.ledger("saved")["yes"] == 1
    assert [pid for pid in lab.ledger("up") if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.slow
def test_step_that_is_to_end_is_not_given_more_time_by_its_walltime(lab: Lab) -> None:
    # Given a step that does not end by itself, a second or two before its walltime
    cmd = ": $(X)\ntrap '' TERM\nwhile :; do echo tick >> $LEDGER/ticks; sleep 0.1; done"
    study = queue(lab, cmd, 1, "walltime: 4")
    worker = lab.work("--queues", "merlin", "--slots", "1")
    wait_until(lambda: lab.ledger("ticks")["tick"] >= 24, "it runs for more than two seconds")
    # When its worker is told to end what runs within two seconds
    worker.terminate()
    wait_until(lambda: "worker_signalled" in lab.logs(), "it drains")
    worker.terminate()
    # I expect the step to be handed back
    assert worker.wait(timeout=20) == 0, lab.logs()
    assert lab.study(study)["by_step"]["a"]["ready"] == 1


def test_sample_that_kills_the_guard_of_one_worker_after_another_is_dead(lab: Lab) -> None:
    # Given a sample whose script kills the parent of its parent: that of the engine
    cmd = "kill -9 $(awk '/PPid/ {print $2}' /proc/$PPID/status); sleep 600; : $(X)"
    study = queue(lab, cmd, 1, "max_losses: 2")
    for _ in range(2):
        assert lab.work("--queues", "merlin", "--slots", "1").wait(timeout=30) == -9
        wait_until(lambda: not lab.leftovers(), "nothing of it is left")
    status = lab.wait_for_end(study)
    assert [(one["sample"], one["reason"]) for one in status["failed_samples"]] == [(0, "lost 2 workers")]
