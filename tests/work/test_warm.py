"""Warm shells with real shells: a sample can't tell, nor can who looks at its files, output and end."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrun.engine.errors import HandBackError
from mrun.engine.work.processes.warm import SAMPLES_MOST
from tests.conftest import wait_until
from tests.lab import Lab
from tests.work.warm_bench import Bench, end_of, is_alive

#: What is the same in the output too, but for numbers of processes, and for how dash calls itself.
SAME = {
    "nothing": "",
    "a comment": "# nothing",
    "no newline at the end": "printf abc",
    "environment": "env | sort",
    "environment of what it execs": "exec env -u SHLVL sort </dev/null; echo not here",
    "a directory entered": "cd /\nenv | sort\ncd - >/dev/null\npwd",
    "exit code": "exit 3",
    "exit code of the last command": "false",
    "exit without a code": "false\nexit",
    "exit in a subshell": "(exit 4)\necho $?",
    "wrong exit": "exit abc",
    "a code that looks like a signal": "exit 143",
    "the highest code": "exit 255",
    "RETRY": "exit 104",
    "exec": "echo a\nexec sh -c 'exit 7'",
    "exec of what is not there": "exec nosuchcommand\necho not here",
    "exec of redirections": "exec 3>three >one\necho a\necho b >&3",
    "errexit": "set -e\necho a\nfalse\necho b",
    "errexit in a function": "set -e\nf() { false; echo b; }\nf\necho c",
    "nounset": "set -u\necho a $nope\necho b",
    "options": "set -f\necho *\nset -o | sort",
    "syntax error": "echo a\nif; then\nfi\necho b",
    "open quotation mark": "echo a\necho 'abc",
    "open here-document": "cat <<X\nabc",
    "no such command": "nosuchcommand 1\necho $?",
    "no such directory": "echo a >/nosuch/x\necho b",
    "failed assertion": "echo ${nope?gone}\necho b",
    "division by zero": "echo $((1 / 0))\necho b",
    "a constant": "readonly a=1\na=2\necho b",
    "missing library": ". ./nofile\necho b",
    "library": "echo 'x=1; echo in' >lib\n. ./lib\necho $x",
    "here-documents": "cat <<A\nx $HOME\nA\ncat <<'A'\n$HOME\nA\nv=$(cat <<B\nq\nB\n)\necho \"$v\"",
    "functions": "f() { x=$1; return 4; }\nf 2\necho $? $x",
    "line numbers": "\n\necho $LINENO",
    "no arguments": 'echo $# "$@"',
    "stdin": 'cat\nread x\necho "[$x] $?"',
    "descriptors": "ls -l /proc/self/fd | awk '{ print NR, $9 }'",
    "signals": "grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status",
    "signals of a subshell": "(grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status)",
    "limits": "ulimit -a\numask",
    "a child in the background": "sleep 0 &\nwait\necho $?",
    "a job by its number": "sleep 0 &\nwait %1\necho $?",
    "nothing to wait for": "wait\necho $?",
    "a child that was killed": "sh -c 'kill -9 $$'\necho $?",
    "its last command was killed": "sh -c 'kill -9 $$'",
    "a pipe": "false | true\necho $?\nyes | head -1",
    "a bad substitution": "echo ${a!b}\necho b",
    "a number that is none": "echo $((08))\necho b",
    "a constant of the shell": "UID=5\necho b",
    "aliases": "alias ll='echo aliased'\nll",
    "field separators": 'printf %s "$IFS" | od -c',
    "mask": "umask 077\n: >f\nls -l f | cut -c1-10",
    "carriage returns": "echo a\r\nfalse\r",
    "a terminal": ": </dev/tty",
    "a large script": f"x={'y' * 1_000_000}\necho ${{#x}}",
    "a long line": "echo " + "a" * 70_000,
    "terminated": "kill -TERM 0\nsleep 60",
    "interrupted": "kill -INT 0\nsleep 60",
    "broken pipe": "kill -PIPE 0\nsleep 60",
    "killed": "kill -KILL 0\nsleep 60",
    "crashed": "exec sh -c 'kill -SEGV $$'",
    "a real-time signal": "kill -40 0\nsleep 60",
}


def without_names(text: str, shell: str) -> str:
    """Error messages without the number of a process, and without what dash calls itself."""
    text = re.sub(r"(line \d+: +)\d+ ", r"\1PID ", text)
    if shell == "/bin/bash":
        return text
    lines = [re.sub(r"^\S+: (\d+): (?:\S+/x\.sh: )?", r"\1: ", line) for line in text.split("\n")]
    return "\n".join(lines)


@pytest.mark.parametrize("script", SAME.values(), ids=SAME)
async def test_what_a_script_does_is_the_same_as_cold(bench: Bench, script: str) -> None:
    ends = []
    for is_warm in (False, True):
        shutil.rmtree(bench.directory)
        bench.directory.mkdir()
        variables = {"MRUN_SAMPLE_ID": "7", "AWKWARD": 'it\'s\n"$HOME" `x` \\ \u00fc\t'}
        code = await bench.run(script, **variables) if is_warm else bench.run_cold(script, **variables)
        files = {
            path.name: path.read_text()
            for path in bench.directory.iterdir()
            if path.is_file() and path.name not in ("x.err", "x.sh")
        }
        ends.append((code, files, without_names(bench.err, bench.shell)))
    bench.warm.close()
    assert ends[1] == ends[0]


@pytest.mark.parametrize("number", [1, 2, 6, 9, 11, 13, 14, 15, 34, 64])
async def test_a_signal_is_told_from_the_code_that_looks_like_it(bench: Bench, number: int) -> None:
    assert await bench.run(f"kill -{number} 0\nsleep 60") == -number
    assert await bench.run(f"exit {128 + number}") == 128 + number
    bench.warm.close()


async def test_one_shell_runs_all_samples_and_they_leave_nothing_to_each_other(bench: Bench) -> None:
    await bench.run("true")
    shells = bench.shells()
    await bench.run(
        "x=1; export Y=2; f() { :; }; cd /; umask 077; set -fu; exec 5>&1; alias a=b; readonly MRUN_STUDY\n"
        "ulimit -n 100; hash -r; IFS=:; PATH=/nowhere; unset HOME; sleep 0 &",
        MRUN_STUDY="one",
    )
    show = 'echo "[$x] [$Y] [$-] [$IFS] [$PATH] [$HOME] [$MRUN_STUDY] [$MRUN_RESUME]"; f; alias; pwd; umask; ulimit -n'
    for name in ("x.out", "x.err"):
        (bench.directory / name).unlink()
    await bench.run(show, MRUN_STUDY="two")
    warm = (bench.out, without_names(bench.err, bench.shell))
    assert bench.shells() == shells
    bench.warm.close()
    for name in ("x.out", "x.err"):
        (bench.directory / name).unlink()
    bench.run_cold(show, MRUN_STUDY="two")
    # The letter c says that the shell was started with `-c`. `$-` is refused when the study is queued.
    assert (warm[0].replace("hBc", "hB"), warm[1]) == (bench.out, without_names(bench.err, bench.shell))


async def test_a_sample_leads_a_group_of_its_own(bench: Bench) -> None:
    process = bench.start("ps -o pid= -o pgid= -p $$ >/dev/null\nread -r pid rest </proc/self/stat; echo $pid >pid\n"
                          "ps -o pgid= -p $pid >group\nsleep 600 & echo $! >child\ntouch up\nwait")  # fmt: skip
    await bench.until(lambda: bench.has("up"), "it runs")
    child = bench.number("child")
    assert bench.number("pid") == bench.number("group") == os.getpgid(child)
    process.signal(signal.SIGTERM)
    assert (await end_of(process)).code == -signal.SIGTERM
    await bench.until(lambda: not is_alive(child), "its child is gone, too")
    process.close()
    bench.warm.close()


async def test_a_signal_that_comes_at_once_is_not_lost(bench: Bench) -> None:
    for _ in range(20):
        process = bench.start("sleep 600")
        process.signal(signal.SIGTERM)
        assert (await end_of(process)).code == -signal.SIGTERM
        process.close()
    assert len(bench.shells()) == 1
    bench.warm.close()


async def test_killing_at_once_ends_it(bench: Bench) -> None:
    for _ in range(10):
        process = bench.start("sleep 600")
        process.signal(signal.SIGKILL)
        assert (await end_of(process)).code == -signal.SIGKILL
        process.close()
    bench.warm.close()


async def test_a_sample_that_was_stopped_is_waited_for(bench: Bench) -> None:
    process = bench.start("read -r pid rest </proc/self/stat; echo $pid >pid\nkill -STOP $pid\nexit 5")
    await bench.until(lambda: bench.has("pid") and (bench.directory / "pid").read_text(), "it runs")
    pid = bench.number("pid")
    await bench.until(lambda: "(stopped)" in Path(f"/proc/{pid}/status").read_text(), "it is stopped")
    assert await process.wait_within(0.2) is None
    process.signal(signal.SIGCONT)
    assert (await end_of(process)).code == 5
    process.close()
    assert await bench.run("exit 6") == 6
    assert len(bench.shells()) == 1
    bench.warm.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_shell_that_its_sample_stopped_can_be_ended(bench: Bench, number: int) -> None:
    # Given a script that has stopped its warm shell, and has ended
    process = bench.start("read -r pid name state parent rest </proc/self/stat; kill -STOP $parent\ntouch up")
    (shell,) = bench.shells()
    await bench.until(lambda: "(stopped)" in Path(f"/proc/{shell}/status").read_text(), "the shell is stopped")
    await bench.until(lambda: bench.has("up"), "it has ended, or will")
    assert await process.wait_within(0.2) is None
    # When it is to end, as at its walltime, I expect it to be heard of
    process.signal(number)
    await end_of(process)
    process.close()
    assert await bench.run("exit 6") == 6
    bench.warm.close()


async def test_a_killed_shell_takes_its_sample_along_and_is_replaced(bench: Bench) -> None:
    process = bench.start(
        "read -r pid rest </proc/self/stat; echo $pid >pid\nsleep 600 & echo $! >child\ntouch up\nwait"
    )
    await bench.until(lambda: bench.has("up"), "it runs")
    (shell,) = bench.shells()
    os.kill(shell, signal.SIGKILL)
    with pytest.raises(HandBackError) as caught:
        await end_of(process)
    assert caught.value.has_begun
    for name in ("pid", "child"):
        number = bench.number(name)
        await bench.until(lambda number=number: not is_alive(number), f"the {name} is gone")
    process.close()
    assert await bench.run("exit 6") == 6
    assert bench.shells()
    assert shell not in bench.shells()
    bench.warm.close()


async def test_a_shell_that_died_between_samples_is_replaced(bench: Bench) -> None:
    await bench.run("true")
    (shell,) = bench.shells()
    os.kill(shell, signal.SIGKILL)
    await bench.until(lambda: not is_alive(shell), "it is dead")
    assert await bench.run("exit 6") == 6
    bench.warm.close()


async def test_closing_kills_what_runs(bench: Bench) -> None:
    process = bench.start("sleep 600 & echo $! >child\ntouch up\nwait")
    await bench.until(lambda: bench.has("up"), "it runs")
    process.close()
    child = bench.number("child")
    await bench.until(lambda: not is_alive(child), "its child is gone")
    assert not bench.shells()


async def test_waiting_may_be_given_up_and_taken_up_again(bench: Bench) -> None:
    process = bench.start("while [ ! -e go ]; do sleep 0.01; done\nexit 9")
    assert await process.wait_within(0.05) is None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait_within(60), 0.05)
    (bench.directory / "go").touch()
    assert (await end_of(process)).code == 9
    assert (await end_of(process)).code == 9
    process.close()
    bench.warm.close()


@pytest.mark.parametrize("harm", ["directory", "out", "err"])
async def test_what_can_not_be_opened_is_no_fault_of_the_sample(bench: Bench, harm: str) -> None:
    gone = bench.directory / "gone"
    process = bench.begin(bench.warm_script("touch ../ran ran", **{harm: f"{gone}/it's"}))
    with pytest.raises(HandBackError, match="gone") as caught:
        await end_of(process)
    process.close()
    assert not caught.value.has_begun
    assert not process.has_begun
    assert not bench.has("ran")
    bench.warm.close()


async def test_output_may_go_to_descriptors_that_are_appended_to(bench: Bench) -> None:
    with tempfile.TemporaryFile("r+", dir=bench.directory) as out, tempfile.TemporaryFile("r+") as err:
        for text in ("a", "b"):
            process = bench.begin(
                bench.warm_script(f"echo {text}; echo {text}{text} >&2", out=out.fileno(), err=err.fileno())
            )
            await end_of(process)
            process.close()
        assert (out.read(), err.read()) == ("a\nb\n", "aa\nbb\n")
    bench.warm.close()


@pytest.mark.parametrize("ends_group", [False, True])
async def test_what_a_sample_leaves_running(bench: Bench, ends_group: bool) -> None:
    process = bench.begin(bench.warm_script("sleep 600 & echo $! >child", ends_group=ends_group))
    assert (await end_of(process)).code == 0
    child = bench.number("child")
    if ends_group:
        await bench.until(lambda: not is_alive(child), "it was ended")
    else:
        assert process.has_left_others
        os.kill(child, signal.SIGKILL)
    process.close()
    bench.warm.close()


async def test_a_worker_keeps_no_descriptor_and_no_process_of_its_shells(bench: Bench) -> None:
    before = os.listdir("/proc/self/fd")
    processes = [bench.start("sleep 0.05") for _ in range(5)]
    assert len(bench.shells()) == 5
    shells = bench.shells()
    for process in processes:
        await end_of(process)
        process.close()
    for _ in range(20):
        await bench.run("true")
    assert bench.shells() == shells
    bench.warm.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert not any(is_alive(shell) for shell in shells)


async def test_a_shell_is_replaced_before_it_grows_and_spares_what_its_last_sample_left(bench: Bench) -> None:
    process = bench.start("sleep 600 & echo $! >child")
    (shell,) = bench.shells()
    await end_of(process)
    process.shell.count = SAMPLES_MOST
    process.close()
    child = bench.number("child")
    assert not bench.shells()
    assert not is_alive(shell)
    assert is_alive(child)
    os.kill(child, signal.SIGKILL)
    assert await bench.run("exit 6") == 6
    bench.warm.close()


async def test_a_shell_that_is_not_there_is_started_cold(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "/bin/sh")
    assert bench.start_if_fit(bench.warm_script("true", shell="/nosuch/bash")) is None


async def test_a_shell_without_job_control_is_started_cold(tmp_path: Path) -> None:
    pretender = tmp_path / "sh"
    pretender.write_text("#!/bin/sh\necho refused\necho no tty >&2\nread x\n")
    pretender.chmod(0o755)
    bench = Bench(tmp_path, "/bin/sh")
    assert bench.start_if_fit(bench.warm_script("true", shell=str(pretender))) is None
    assert not bench.shells()


async def test_each_sample_reads_the_file_that_bash_reads_first(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.write_text("FIRST=$MRUN_SAMPLE_ID\n")
    bench = Bench(tmp_path, "/bin/bash", BASH_ENV=str(first))
    for sample in "12":
        await bench.run("echo $FIRST $BASH_ENV", MRUN_SAMPLE_ID=sample)
    assert bench.out == f"1 {first}\n2 {first}\n"
    bench.warm.close()


async def test_a_name_that_bash_would_expand_first_is_started_cold(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "/bin/bash", BASH_ENV="$HOME/first")
    assert bench.warm.order(bench.warm_script("true")) is None


async def test_nul_is_refused_as_the_kernel_would(bench: Bench) -> None:
    with pytest.raises(ValueError, match="null"):
        bench.start("true", X="a\0b")


@settings(max_examples=25)
@given(
    value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    name=st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=40),
)
def test_any_text_can_be_a_value_or_a_name(value: str, name: str) -> None:
    async def run(directory: Path) -> None:
        directory.mkdir()
        bench = Bench(directory, "/bin/sh")
        assert await bench.run('printf %s "$VALUE"', VALUE=value) == 0
        bench.warm.close()
        assert (directory / "x.out").read_bytes() == value.encode()

    if name in (".", ".."):
        return
    with tempfile.TemporaryDirectory() as place:
        asyncio.run(run(Path(place, name)))


STUDY = """
    description: {{name: warm, description: warm shells}}
    batch: {{shell: {shell}}}
    study:
        - name: a
          description: a step
          run:
              cmd: |
{cmd}
              warm: true
    merlin:
        samples: {{file: samples.npy, column_labels: [X], files: {files}}}
"""


def queue(lab: Lab, cmd: str, samples: int = 1, shell: str = "/bin/bash", files: str = "full") -> str:
    np.save(lab.directory / "samples.npy", np.arange(samples))
    lines = "\n".join(" " * 18 + line for line in cmd.splitlines())
    return lab.queue(lab.spec(STUDY.format(cmd=lines, shell=shell, files=files)))


def shells_of(lab: Lab, worker: subprocess.Popen[bytes]) -> list[int]:
    engine = lab.engine_of(worker)
    return [int(word) for word in Path(f"/proc/{engine}/task/{engine}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])
@pytest.mark.parametrize("files", ["full", "lean", "packed"])
def test_a_warm_study_runs_each_sample_once_in_a_shell_for_each_slot(lab: Lab, shell: str, files: str) -> None:
    # Given samples that tell who started them, and of which every tenth fails
    cmd = (
        'read -r a b c d rest </proc/self/stat; echo "$(X) $MRUN_SAMPLE_ID" >> $LEDGER/ran\necho $d >> $LEDGER/parents'
    )
    cmd = cmd.replace("</proc/self/stat", "< $FS/self/stat")
    lab.environment["FS"] = "/proc"
    study = queue(lab, f"{cmd}\necho out $(X)\n[ $(( $(X) % 10 )) != 7 ]", 60, shell, files)
    worker = lab.work("--queues", "merlin", "--slots", "2")
    status = lab.wait_for_end(study)
    # I expect the codes of a cold start, the output, and two parents besides the subshells' own
    assert (status["by_step"]["a"]["finished"], status["by_step"]["a"]["failed"]) == (54, 6)
    assert lab.ledger("ran") == {str(index): 2 for index in range(60)}
    assert set(map(int, lab.ledger("parents"))) == set(shells_of(lab, worker))
    assert 1 <= len(lab.ledger("parents")) <= 2
    assert "out 33\n" in lab.mrun("logs", study, "--samples", "33")
    lab.stop_workers()


def test_a_killed_warm_shell_costs_its_sample_nothing_but_time(lab: Lab) -> None:
    study = queue(
        lab, "echo $(X) >> $LEDGER/ran\nwhile [ ! -e $LEDGER/go ]; do sleep 0.02; done\necho $(X) >> $LEDGER/end", 2
    )
    worker = lab.work("--queues", "merlin", "--slots", "1")
    wait_until(lambda: lab.ledger("ran"), "a sample runs")
    (shell,) = shells_of(lab, worker)
    os.kill(shell, signal.SIGKILL)
    wait_until(lambda: sum(lab.ledger("ran").values()) == 2, "it runs again")
    (lab.ledger_dir / "go").touch()
    status = lab.wait_for_end(study)
    assert status["by_step"]["a"]["finished"] == 2
    assert lab.ledger("end") == {"0": 1, "1": 1}


@pytest.mark.slow
def test_cancelling_ends_a_warm_sample_and_what_it_started(lab: Lab) -> None:
    study = queue(lab, "sleep 600 &\necho up >> $LEDGER/up\nwait # $(X)")
    lab.work("--queues", "merlin")
    wait_until(lambda: lab.ledger("up"), "the sample runs")
    lab.mrun("cancel", study, "--yes")
    assert lab.wait_for_end(study)["by_step"]["a"]["cancelled"] == 1
    wait_until(lambda: not any("sleep" in line for line in lab.leftovers()), "what it started is gone")


def test_killed_engine_takes_warm_shells_and_their_samples_with_it(lab: Lab) -> None:
    queue(lab, "(setsid sleep 602 &)\necho up >> $LEDGER/up\nsleep 603 # $(X)")
    worker = lab.work("--queues", "merlin", "--lease", "2")
    wait_until(lambda: lab.ledger("up"), "the sample runs")
    os.kill(lab.engine_of(worker), signal.SIGKILL)
    assert worker.wait(timeout=20) == 128 + signal.SIGKILL
    wait_until(lambda: not lab.leftovers(), "nothing is left over")


@pytest.mark.slow
def test_samples_whose_files_can_not_be_opened_go_back_and_the_study_is_refused(lab: Lab) -> None:
    study = queue(lab, "echo ran >> $LEDGER/ran # $(X)")
    (Path(lab.study(study)["workspace"]) / "a" / "a.out").mkdir(parents=True)
    worker = lab.work("--queues", "merlin", "--exit-when-done")
    assert worker.wait(timeout=30) != 0
    assert "could not begin a sample" in lab.logs()
    assert not lab.ledger("ran")
    assert lab.study(study)["by_step"]["a"]["ready"] == 1
