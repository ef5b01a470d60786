"""A script that was handed to a warm shell while another ran: begun by the shell itself, once, or taken back."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mrun.engine.errors import HandBackError
from mrun.engine.work.processes.warm import WarmProcess
from tests.conftest import wait_until
from tests.lab import Lab
from tests.work.warm_bench import SHELLS, Bench, end_of, is_alive

#: Waits until there is a file `go`, without a process of its own.
WAIT = "until [ -e go ]; do :; done"


def follow(bench: Bench, leader: WarmProcess, text: str, name: str, **options: object) -> WarmProcess:
    """Hand over what is to run behind `leader`."""
    order = bench.warm.order(bench.warm_script(text, name, **options))
    assert order is not None
    assert leader.may_be_followed_by(order)
    return leader.follow(order)


@pytest.fixture(params=[shell for shell in SHELLS if not shell.endswith(" whole")])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A shell of its own is not handed over."""
    bench = Bench(tmp_path, request.param)
    yield bench
    assert not bench.watched.groups, "shells are left over"


async def test_it_begins_without_the_engine_when_the_other_has_ended(pair: Bench) -> None:
    first = pair.start(WAIT)
    second = follow(pair, first, "echo $MRUN_SAMPLE_ID; pwd; touch end; exit 3", "y")
    # When the engine does nothing meanwhile
    (pair.directory / "go").touch()
    wait_until(lambda: pair.has("end"), "it ends")
    # I expect both ends, in their turn, and the shell to be free again
    assert (await end_of(first)).code == 0
    first.close()
    assert (await end_of(second)).code == 3
    second.close()
    assert (pair.directory / "y.out").read_text() == f"\n{pair.directory}\n"
    assert pair.out == ""
    assert await pair.run("exit 6") == 6
    assert len(pair.shells()) == 1
    pair.warm.close()


async def test_a_shell_whose_two_scripts_ended_unseen_is_given_back_once(pair: Bench) -> None:
    first = pair.start(WAIT)
    second = follow(pair, first, "touch end", "y")
    (pair.directory / "go").touch()
    wait_until(lambda: pair.has("end"), "both have run")
    await end_of(second)
    first.close()
    second.close()
    # When two more are started at once, they need two shells
    both = [pair.begin(pair.warm_script("exit 4", name)) for name in "pq"]
    assert len(pair.shells()) == 2
    assert [(await end_of(one)).code for one in both] == [4, 4]
    for one in both:
        one.close()
    pair.warm.close()


async def test_what_was_taken_back_never_runs(pair: Bench) -> None:
    first = pair.start(WAIT)
    second = follow(pair, first, "touch never", "y")
    assert second.take_back()
    assert not second.take_back()
    # When another one is handed over in its place
    third = follow(pair, first, "exit 5", "z")
    (pair.directory / "go").touch()
    assert (await end_of(first)).code == 0
    first.close()
    assert (await end_of(third)).code == 5
    third.close()
    assert not pair.has("never")
    assert not second.has_begun
    pair.warm.close()


async def test_what_has_begun_can_not_be_taken_back(pair: Bench) -> None:
    first = pair.start("touch up")
    second = follow(pair, first, "touch began\nuntil [ -e go ]; do :; done\nexit 5", "y")
    wait_until(lambda: pair.has("began"), "it has begun, and the engine does not know")
    assert not second.take_back()
    (pair.directory / "go").touch()
    assert (await end_of(first)).code == 0
    first.close()
    assert not second.take_back()
    assert (await end_of(second)).code == 5
    second.close()
    pair.warm.close()


@pytest.mark.parametrize("is_taken_back", [False, True])
async def test_it_waits_while_the_other_is_stopped(pair: Bench, is_taken_back: bool) -> None:
    first = pair.start("read -r pid rest </proc/self/stat; echo $pid >pid\nkill -STOP $pid\nexit 5")
    second = follow(pair, first, "touch ran; exit 3", "y")
    await pair.until(lambda: pair.has("pid") and (pair.directory / "pid").read_text(), "it runs")
    await pair.until(lambda: "(stopped)" in Path(f"/proc/{pair.number('pid')}/status").read_text(), "it is stopped")
    assert await first.wait_within(0.2) is None
    assert not pair.has("ran")
    if is_taken_back:
        assert second.take_back()
    first.signal(signal.SIGCONT)
    assert (await end_of(first)).code == 5
    first.close()
    if not is_taken_back:
        assert (await end_of(second)).code == 3
        second.close()
    assert pair.has("ran") is not is_taken_back
    assert await pair.run("exit 6") == 6
    assert len(pair.shells()) == 1
    pair.warm.close()


@pytest.mark.parametrize(
    ("ends", "codes"),
    [
        (("exit 143", "kill -TERM 0; sleep 60"), (143, -15)),
        (("kill -TERM 0; sleep 60", "exit 143"), (-15, 143)),
        (("kill -KILL 0; sleep 60", "exit 0"), (-9, 0)),
        (("exit 137", "exit 137"), (137, 137)),
    ],
)
async def test_the_words_on_one_are_not_taken_for_the_other(
    pair: Bench, ends: tuple[str, str], codes: tuple[int, int]
) -> None:
    first = pair.start(f"{WAIT}\n{ends[0]}")
    second = follow(pair, first, f"touch began\n{ends[1]}", "y")
    (pair.directory / "go").touch()
    wait_until(lambda: pair.has("began"), "it has begun, and the engine has heard nothing")
    assert (await end_of(first)).code == codes[0]
    first.close()
    assert (await end_of(second)).code == codes[1]
    second.close()
    pair.warm.close()


async def test_one_that_could_not_begin_leaves_the_other_as_it_is(pair: Bench) -> None:
    # Given one whose output can't be opened, behind another
    (pair.directory / "y.out").mkdir()
    first = pair.start(f"{WAIT}\nkill -TERM 0; sleep 60")
    second = follow(pair, first, "exit 0", "y")
    (pair.directory / "go").touch()
    assert (await end_of(first)).code == -signal.SIGTERM
    first.close()
    with pytest.raises(HandBackError, match=r"(?i)directory") as caught:
        await end_of(second)
    assert not caught.value.has_begun
    second.close()
    assert not pair.shells()
    assert await pair.run("exit 6") == 6
    pair.warm.close()


async def test_closing_the_one_that_runs_ends_both(pair: Bench) -> None:
    first = pair.start("read -r pid rest </proc/self/stat; echo $pid >pid\nsleep 600")
    second = follow(pair, first, "touch never", "y")
    await pair.until(lambda: pair.has("pid") and (pair.directory / "pid").read_text(), "it runs")
    first.close()
    second.close()
    await pair.until(lambda: not is_alive(pair.number("pid")), "it is gone")
    assert not pair.has("never")
    pair.warm.close()


async def test_closing_one_that_began_unseen_kills_it(pair: Bench) -> None:
    first = pair.start("true")
    second = follow(pair, first, "sh -c 'echo $PPID' >pid\nsleep 600", "y")
    wait_until(lambda: pair.has("pid") and (pair.directory / "pid").read_text(), "the second one runs")
    first.close()
    second.close()
    wait_until(lambda: not is_alive(pair.number("pid")), "it is gone")
    pair.warm.close()


async def test_a_killed_shell_is_the_end_of_both(pair: Bench) -> None:
    first = pair.start("touch up\nsleep 600")
    second = follow(pair, first, "touch never", "y")
    await pair.until(lambda: pair.has("up"), "it runs")
    (shell,) = pair.shells()
    os.kill(shell, signal.SIGKILL)
    for process, has_begun in ((first, True), (second, False)):
        with pytest.raises(HandBackError) as caught:
            await end_of(process)
        assert caught.value.has_begun is has_begun
        process.close()
    assert not pair.has("never")
    assert await pair.run("exit 6") == 6
    pair.warm.close()


async def test_in_a_long_row_each_runs_once_or_was_taken_back(pair: Bench) -> None:
    # Given a row in which some are taken back, at once or a moment later, and the engine sleeps now and then
    draw = random.Random(20261122)
    ran = pair.directory / "ran"
    expected, running = [], pair.start("true")
    for number in range(300):
        following = follow(pair, running, f"echo {number} >>{ran}\nexit {number % 7}", f"s{number % 100}")
        if draw.random() < 0.2:
            time.sleep(draw.uniform(0, 0.003))  # noqa: ASYNC251  the engine is busy, for a random time
        if draw.random() < 0.3 and following.take_back():
            continue
        expected.append(number)
        await end_of(running)
        running.close()
        running = following
    assert (await end_of(running)).code == expected[-1] % 7
    running.close()
    # I expect what was not taken back to have run, each once and in its turn
    assert [int(line) for line in ran.read_text().split()] == expected
    assert len(expected) < 300
    assert len(pair.shells()) == 1
    pair.warm.close()


STUDY = """
    description: {{name: row, description: short samples}}
    study:
        - name: a
          description: a step
          run: {{cmd: "echo $(X) >> $LEDGER/ran", warm: true}}
    merlin:
        samples: {{file: samples.npy, column_labels: [X], files: {files}}}
"""


def queue_row(lab: Lab, samples: int, files: str) -> str:
    np.save(lab.directory / "samples.npy", np.arange(samples))
    return lab.queue(lab.spec(STUDY.format(files=files)))


@pytest.mark.slow
@pytest.mark.parametrize("files", ["full", "lean", "packed"])
def test_workers_that_drain_leave_each_sample_to_run_once(lab: Lab, files: str) -> None:
    samples = 1500
    study = queue_row(lab, samples, files)
    # When workers are told to drain, in random moments
    draw = random.Random(7)
    for _ in range(4):
        worker = lab.work("--queues", "merlin", "--slots", "2")
        before = sum(lab.ledger("ran").values())
        wait_until(lambda before=before: sum(lab.ledger("ran").values()) > before, "it runs")
        time.sleep(draw.uniform(0.02, 0.15))  # the moment is random: nothing is waited for
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=30) == 0, lab.logs()
    assert sum(lab.ledger("ran").values()) < samples
    lab.work("--queues", "merlin", "--slots", "2")
    # I expect each sample once, and nothing said of a second execution
    assert lab.wait_for_end(study)["by_step"]["a"]["finished"] == samples
    assert lab.ledger("ran") == {str(number): 1 for number in range(samples)}
    lab.stop_workers()


@pytest.mark.slow
@pytest.mark.parametrize("files", ["full", "lean", "packed"])
def test_a_killed_engine_loses_nothing_of_what_was_handed_over(lab: Lab, files: str) -> None:
    samples = 1500
    study = queue_row(lab, samples, files)
    for count in (200, 700):
        worker = lab.work("--queues", "merlin", "--slots", "2", "--lease", "2")
        wait_until(lambda count=count: sum(lab.ledger("ran").values()) > count, "it runs")
        os.kill(lab.engine_of(worker), signal.SIGKILL)
        assert worker.wait(timeout=20) == 128 + signal.SIGKILL
    lab.work("--queues", "merlin", "--slots", "2", "--lease", "2")
    assert lab.wait_for_end(study)["by_step"]["a"]["finished"] == samples
    assert set(lab.ledger("ran")) == {str(number) for number in range(samples)}
    lab.stop_workers()
