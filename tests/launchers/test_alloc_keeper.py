"""The keeper of allocations, with a fake LSF whose jobs begin and end when a test says so."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from msgspec.structs import replace

from mrun.engine.alloc.jobs import JobPlace
from mrun.engine.alloc.keeper import Keeper
from mrun.engine.alloc.rules import FAILURES_MOST
from mrun.engine.errors import LauncherError, NotFoundError
from mrun.engine.store.allocs import FORCE, PAUSE, REMOVE, RESUME, AllocJob, Allocs, AllocState, AllocTerms, KeptAlloc
from mrun.engine.store.store import Store
from mrun.engine.store.views import Views
from mrun.launchers.job_calls import JobCalls
from tests.conftest import TestServer
from tests.launchers.kinds import faked
from tests.store.plans import SEAL, S, make_plan, submit

TERMS = AllocTerms("sim", "ab12", "lsf", ("q",), 3600.0, cores=2, max_jobs=2, idle_exit_s=300.0)


class Site:
    """A store, a scheduler that starts nothing by itself, and keepers."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.store, self.directory = store, directory
        self.allocs = Allocs(store, SEAL)
        self.kind = faked("lsf", directory)
        self.fake_dir = Path(self.kind.environment["FAKE_DIR"])
        (self.fake_dir / "daemon").touch()
        self.place = JobPlace(directory / "alloc", directory, store.keys.namespace, {})
        self.keeper = self.new_keeper("keeper")

    def new_keeper(self, name: str) -> Keeper:
        views = Views(self.store, SEAL)
        return Keeper(name, self.allocs, self.store, views, self.place, desk_of=self.desk, keeps_s=60)

    def desk(self, kind: str) -> JobCalls:
        assert self.kind.launcher.scheduler is not None
        return JobCalls(self.kind.launcher.scheduler, self.kind.environment)

    async def maintain(self) -> KeptAlloc:
        maintained = await self.keeper.maintain("sim")
        assert maintained is not None
        return maintained.kept

    async def now(self, **fields: object) -> KeptAlloc:
        """Change the state, as if time had gone by."""
        kept = await self.allocs.keep("sim", "keeper", 60)
        assert kept is not None
        changed = await self.allocs.note(kept, "keeper", replace(kept.state, **fields))
        assert changed is not None
        return changed

    def jobs(self) -> list[Path]:
        return sorted(self.fake_dir.glob("lsf.*"))

    def names(self) -> list[str]:
        return [(job / "name").read_text() for job in self.jobs()]


@pytest.fixture
async def site(own_server: TestServer, tmp_path: Path) -> AsyncIterator[Site]:
    client = redis.asyncio.Redis(unix_socket_path=str(own_server.socket))
    site = Site(Store(client, f"t{secrets.token_hex(4)}"), tmp_path)
    await site.allocs.add(TERMS)
    yield site
    await client.aclose()


def begin(job: Path) -> None:
    """It has resources, and runs: what a fake would kill is not there."""
    (job / "pid").write_text("0")


def end(job: Path, code: int = 0) -> None:
    (job / "end").write_text(str(code))


async def test_jobs_are_submitted_for_what_waits_and_looked_at_until_they_end(site: Site) -> None:
    await submit(site.store, make_plan(100, S("a")), queues="q")
    kept = await site.maintain()
    assert [job.is_running for job in kept.state.jobs] == [False, False]
    assert site.names() == ["mrun-alloc-sim-ab12-1", "mrun-alloc-sim-ab12-2"]
    begin(site.jobs()[0])
    assert [job.is_running for job in (await site.maintain()).state.jobs] == [True, False]
    # One has ended well: another takes its place.
    end(site.jobs()[0])
    kept = await site.maintain()
    assert [job.number for job in kept.state.jobs] == [2, 3]
    assert (kept.state.ended, kept.state.failures) == (1, 0)


async def test_five_refusals_in_a_row_pause_it_and_resume_goes_on(site: Site) -> None:
    await submit(site.store, make_plan(9, S("a")), queues="q")
    await site.allocs.add(replace(TERMS, name="nope", partition="nope"))
    for number in range(1, FAILURES_MOST + 1):
        maintained = await site.keeper.maintain("nope")
        assert maintained is not None
        kept = maintained.kept
        assert (kept.state.failures, kept.state.jobs) == (number, ())
        assert "No such queue. Job not submitted." in kept.state.error
        # Looked at again before its time, it does nothing.
        again = await site.keeper.maintain("nope")
        assert again is not None
        assert again.kept.state == kept.state
        ready = await site.allocs.keep("nope", "keeper", 60)
        assert ready is not None
        await site.allocs.note(ready, "keeper", replace(kept.state, retry_at_ms=0))
    assert kept.state.is_paused
    maintained = await site.keeper.maintain("nope")
    assert maintained is not None
    assert maintained.kept.state.failures == FAILURES_MOST
    await site.allocs.ask("nope", RESUME)
    maintained = await site.keeper.maintain("nope")
    assert maintained is not None
    assert (maintained.kept.state.failures, maintained.kept.state.is_paused, maintained.kept.request) == (1, False, "")


async def test_a_full_queue_backs_off_and_never_pauses(site: Site) -> None:
    await submit(site.store, make_plan(100, S("a")), queues="q")
    (site.fake_dir / "full").touch()
    kept = await site.now(failures=20)
    kept = await site.maintain()
    assert (kept.state.failures, kept.state.is_paused) == (21, False)
    assert "Pending job threshold reached" in kept.state.error
    # It may have been submitted: so it counts, until it is sure that there is none of its name.
    assert [job.job for job in kept.state.jobs] == [""]
    (site.fake_dir / "full").unlink()
    old = AllocJob(kept.state.last_number, kept.now_ms - 61_000)
    await site.now(jobs=(old,), retry_at_ms=0)
    kept = await site.maintain()
    assert old.number not in [job.number for job in kept.state.jobs]
    assert len(site.jobs()) == len(kept.state.jobs) == 2


async def test_a_job_whose_reply_was_lost_is_found_by_its_name(site: Site) -> None:
    await submit(site.store, make_plan(100, S("a")), queues="q")
    kept = await site.maintain()
    lost = tuple(replace(job, job="") for job in kept.state.jobs)
    await site.now(jobs=lost)
    assert (await site.maintain()).state.jobs == kept.state.jobs
    assert len(site.jobs()) == 2


async def test_what_was_about_to_be_submitted_counts_while_it_may_still_arrive(site: Site) -> None:
    await submit(site.store, make_plan(100, S("a")), queues="q")
    kept = await site.now()
    asked = (AllocJob(1, kept.now_ms), AllocJob(2, kept.now_ms))
    await site.now(jobs=asked, last_number=2)
    assert (await site.maintain()).state.jobs == asked
    assert site.jobs() == []


async def test_only_one_of_two_keepers_works(site: Site) -> None:
    await submit(site.store, make_plan(100, S("a")), queues="q")
    other = site.new_keeper("other")
    await site.maintain()
    assert await other.maintain("sim") is None
    await site.keeper.give_up("sim")
    maintained = await other.maintain("sim")
    assert maintained is not None
    assert len(site.jobs()) == 2


async def test_a_job_that_failed_is_told_with_what_it_printed_and_slows_the_next(site: Site) -> None:
    await submit(site.store, make_plan(100, S("a")), queues="q")
    await site.maintain()
    for job in site.jobs():
        end(job, 127)
    site.place.path(TERMS, 2, "err").write_text("mrun: no such program\n")
    kept = await site.maintain()
    assert (kept.state.jobs, kept.state.failures) == ((), 1)
    assert kept.state.error == f"Job {site.jobs()[1].suffix[1:]} ended with exit code 127. It printed last: " + (
        "mrun: no such program"
    )


async def test_waiting_jobs_are_cancelled_when_no_study_is_left_and_running_ones_are_not(site: Site) -> None:
    study = await submit(site.store, make_plan(100, S("a")), queues="q")
    await site.maintain()
    running, waiting = site.jobs()
    begin(running)
    (waiting / "held").touch()
    await site.store.cancel(study)
    await site.maintain()
    assert (waiting / "cancelled").exists()
    assert not (running / "cancelled").exists()
    assert [job.number for job in (await site.maintain()).state.jobs] == [1]


async def test_while_paused_nothing_is_submitted_and_what_runs_is_looked_at(site: Site) -> None:
    await submit(site.store, make_plan(100, S("a")), queues="q")
    await site.maintain()
    await site.allocs.ask("sim", PAUSE)
    end(site.jobs()[0])
    assert [job.number for job in (await site.maintain()).state.jobs] == [2]


@pytest.mark.parametrize("request_word", [REMOVE, FORCE])
async def test_remove_cancels_what_waits_and_force_also_what_runs(site: Site, request_word: str) -> None:
    await submit(site.store, make_plan(100, S("a")), queues="q")
    await site.maintain()
    for job in site.jobs():
        (job / "held").touch()
    running, waiting = site.jobs()
    begin(running)
    await site.allocs.ask("sim", request_word)
    maintained = await site.keeper.maintain("sim")
    assert maintained is not None
    assert maintained.is_removed
    assert (waiting / "cancelled").exists()
    assert (running / "cancelled").exists() is (request_word == FORCE)
    with pytest.raises(NotFoundError):
        await site.keeper.maintain("sim")


async def test_an_allocation_is_not_forgotten_while_a_job_of_it_may_still_arrive(site: Site) -> None:
    kept = await site.now()
    await site.now(jobs=(AllocJob(1, kept.now_ms),), last_number=1)
    await site.allocs.ask("sim", REMOVE)
    maintained = await site.keeper.maintain("sim")
    assert maintained is not None
    assert not maintained.is_removed


async def test_a_scheduler_that_can_not_be_asked_is_shown_and_nothing_is_submitted(site: Site) -> None:
    await submit(site.store, make_plan(100, S("a")), queues="q")
    await site.maintain()
    path = site.kind.environment["PATH"]
    site.kind.environment["PATH"] = str(site.directory / "nowhere")
    kept = await site.maintain()
    assert "'bjobs' can't be started" in kept.state.error
    assert len(kept.state.jobs) == 2
    # It answers again, and then no more.
    site.kind.environment["PATH"] = path
    assert (await site.maintain()).state.error == ""
    site.kind.environment["PATH"] = str(site.directory / "nowhere")
    await site.allocs.ask("sim", REMOVE)
    with pytest.raises(LauncherError, match="bjobs"):
        await site.keeper.maintain("sim")
    assert (await site.allocs.look("sim")).state != AllocState()
