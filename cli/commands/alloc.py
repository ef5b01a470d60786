"""`mrun alloc`: batch jobs with workers in them, as long as there is work that fits them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import click

from mrun.cli.alloc_rows import show_allocs
from mrun.cli.alloc_words import desk_of, reach_warnings, scheduler_of, terms_of, terms_options
from mrun.cli.confirm import confirm
from mrun.cli.durations import as_duration_s
from mrun.cli.invocation import (
    Invocation,
    current_dir,
    takes_invocation,
)
from mrun.cli.logs import set_up_logging
from mrun.cli.output import Output
from mrun.cli.shown import counted
from mrun.engine.alloc.duty import Duty, DutyOptions
from mrun.engine.alloc.jobs import JobPlace, script_text
from mrun.engine.alloc.keeper import Keeper
from mrun.engine.alloc.listing import AllocRow, alloc_rows
from mrun.engine.alloc.rules import submits_the_same
from mrun.engine.alloc.trial import TRIAL_NUMBER, trial_job, try_out
from mrun.engine.errors import LauncherAwayError, LauncherError, NotFoundError, SealError, UsageError
from mrun.engine.ids import new_worker_id
from mrun.engine.settings import Settings
from mrun.engine.store.allocs import FORCE, PAUSE, REMOVE, RESUME, Allocs, AllocTerms
from mrun.engine.store.connect import Broker
from mrun.engine.store.session import COMMAND_PATIENCE_S, Session
from mrun.engine.workers.environment import broker_variable

#: A keeper waits for a server that is away until it is told to end.
_FOR_EVER_S = float("inf")
#: Another keeper may have an allocation for some rounds after it died; so long, and a little longer.
_KEEPS_ROUNDS, _KEEPS_LEAST_S = 3, 5.0
#: `mrun alloc remove` looks so often, and for so long, whether it is done.
_LOOK_EVERY_S, _REMOVE_MOST_S = 0.3, 120.0


@click.group("alloc")
def command() -> None:
    """Keep batch jobs queued while there is work for them.

    An allocation says which jobs to submit, and for which queues. `mrun alloc run` submits as many jobs as the samples
    on these queues need, and none when there is nothing to do.

    \b
    Examples:
      $ mrun alloc add slurm --queues sim --nodes 2 --walltime 2h --max-jobs 4
      $ mrun alloc run
      $ mrun alloc list
    """


@command.command("add")
@terms_options
@click.option("--no-dry-run", "is_untried", is_flag=True, help="Do not try first whether the scheduler takes a job.")
@takes_invocation
def add(invocation: Invocation, is_untried: bool, **given: Any) -> None:
    """Add an allocation, which `mrun alloc run` keeps from then on.

    First mrun submits a job of this kind that does not start, and cancels it: so you learn at once if the scheduler
    refuses such jobs. Words after -- go to sbatch, flux batch, bsub or qsub. A second allocation that submits the same
    jobs for the same queues needs a --name, because both count the same samples.

    \b
    Examples:
      $ mrun alloc add slurm --queues sim --walltime 2h --nodes 2 --partition batch -- --constraint=fast
      $ mrun alloc add pbs --queues sim --walltime 1h --cores 32 --max-jobs 2 --min-backlog 64
      $ mrun alloc add flux --queues sim,train --walltime 30m --name night
    """

    async def run() -> tuple[AllocTerms, str]:
        settings = invocation.settings()
        broker = invocation.broker(settings, may_start=True)
        async with invocation.session(broker=broker) as session:
            allocs = Allocs(session.store, session.seal)
            terms = terms_of(given, await allocs.names())
            if not given["name"]:
                await _refuse_twin(allocs, terms)
            invocation.output.warn(reach_warnings(broker))
            tried = "" if is_untried else await _try(terms, _place(settings, broker))
            if not await allocs.add(terms):
                raise UsageError(f"There is an allocation '{terms.name}'.", hint="Give another --name.")
            return terms, tried

    terms, tried = anyio.run(run)
    output = invocation.output
    output.data({"name": terms.name, "trial_job": tried or None})
    output.ids([terms.name])
    output.say(f"{terms.name}  added{f' (job {tried} was accepted, and is cancelled)' if tried else ''}")
    output.note("`mrun alloc run` keeps it, on a machine where jobs can be submitted")


@command.command("dry-run")
@terms_options
@takes_invocation
def dry_run(invocation: Invocation, **given: Any) -> None:
    """Try whether the scheduler takes such jobs, and show what they are.

    mrun submits a job that does not start, and cancels it at once. The options are those of `mrun alloc add`.

    \b
    Examples:
      $ mrun alloc dry-run slurm --queues sim --walltime 2h --nodes 2 -- --constraint=fast
    """
    terms, settings = terms_of(given), invocation.settings()
    place, scheduler, output = _place(settings, None), scheduler_of(terms.kind), invocation.output
    job, script = trial_job(terms, place, scheduler), script_text(terms, place.namespace, TRIAL_NUMBER)
    words = scheduler.submit_command(job)
    try:
        submitted = anyio.run(try_out, desk_of(terms.kind), job, place)
    except LauncherError:
        _show_job(output, words, script)
        raise
    output.data({"job": submitted, "command": words, "script": script})
    output.ids([submitted])
    output.say(f"job {submitted} was accepted, and is cancelled")
    _show_job(output, words, script)


@command.command("list")
@takes_invocation
def list_all(invocation: Invocation) -> None:
    """List allocations: their jobs, what waits for them, and what is wrong.

    `ready` counts samples that fit such jobs and wait for a worker. `state` is working, waiting (for the scheduler),
    idle, failing (with the time of the next try), paused, removing, or not kept, which means that nobody runs `mrun
    alloc run`.

    \b
    Examples:
      $ mrun alloc list
      $ mrun alloc list --json
    """

    async def run() -> list[AllocRow]:
        async with invocation.session() as session:
            return await alloc_rows(session, invocation.output.warn)

    show_allocs(invocation.output, anyio.run(run))


@command.command("remove")
@click.argument("name")
@click.option("--force", "is_force", is_flag=True, help="Cancel its running jobs, too; their samples run elsewhere.")
@click.option("-y", "--yes", "is_yes", is_flag=True, help="Do not ask.")
@takes_invocation
def remove(invocation: Invocation, name: str, is_force: bool, is_yes: bool) -> None:
    """Remove an allocation, and cancel its jobs that wait.

    Jobs that run end when they have had no work for the time of --idle-exit. --force cancels them, too.

    \b
    Examples:
      $ mrun alloc remove sim
      $ mrun alloc remove sim --force --yes
    """
    output = invocation.output
    set_up_logging("warning")

    async def run() -> int:
        settings = invocation.settings()
        broker = invocation.broker(settings, may_start=False)
        async with invocation.session(broker=broker) as session:
            running = sum(job.is_running for job in (await Allocs(session.store, session.seal).look(name)).state.jobs)
            if is_force and running:
                confirm(output, f"cancel {counted(running, 'running job')} of '{name}'", is_yes=is_yes)
            await _remove(session, _place(settings, broker), name, FORCE if is_force else REMOVE)
            return 0 if is_force else running

    running = anyio.run(run)
    output.data({"name": name, "still_running": running})
    output.ids([name])
    output.say(f"{name}  removed")
    if running:
        output.note(f"{counted(running, 'job')} of it still run, until they have no work")


@command.command("pause")
@click.argument("name")
@takes_invocation
def pause(invocation: Invocation, name: str) -> None:
    """Submit no more jobs of an allocation. Its jobs that wait or run stay.

    \b
    Examples:
      $ mrun alloc pause sim
    """
    _ask(invocation, name, PAUSE, "paused")


@command.command("resume")
@click.argument("name")
@takes_invocation
def resume(invocation: Invocation, name: str) -> None:
    """Go on with a paused allocation, or try again at once after a failure.

    You pause an allocation with `mrun alloc pause`; several failures in a row pause it, too.

    \b
    Examples:
      $ mrun alloc resume sim
    """
    _ask(invocation, name, RESUME, "resumed")


@command.command("run")
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.option("--once", "is_once", is_flag=True, help="Look once and exit, as cron needs it.")
@click.option(
    "--exit-when-done", "is_exit_when_done", is_flag=True, help="Exit when no study needs jobs and no job is left."
)
@click.option(
    *("--interval", "interval_s"), callback=as_duration_s, default="10s", show_default=True, metavar="TIME",
    help="How often to look at queues and jobs.",
)  # fmt: skip
@takes_invocation
def run_duty(
    invocation: Invocation, names: tuple[str, ...], is_once: bool, is_exit_when_done: bool, interval_s: float
) -> None:
    """Keep all allocations, or those that are named, until a signal.

    When this command ends, its jobs stay as they are. Run it again, here or on another machine, and it goes on with
    them. If several of these commands run, one of them looks after an allocation, and another takes over if that one
    dies. Jobs begin in the current directory, with the variables of this command.

    \b
    Examples:
      $ mrun alloc run
      $ mrun alloc run sim --exit-when-done
      $ mrun alloc run --once
    """
    options = DutyOptions(interval_s, names, is_once, is_exit_when_done)
    set_up_logging("info")
    settings = invocation.settings()
    broker = invocation.broker(settings, may_start=True)

    async def run() -> list[AllocRow]:
        async with invocation.session(broker=broker) as session:
            invocation.output.warn(reach_warnings(broker))
            session.store.patience_s = _FOR_EVER_S
            keeps_s = _KEEPS_LEAST_S + _KEEPS_ROUNDS * interval_s
            keeper = _keeper(session, _place(settings, broker), keeps_s)
            allocs = Allocs(session.store, session.seal)
            await Duty(keeper, allocs, options).run()
            # Who was told to end does not wait for a server that is away.
            session.store.patience_s = COMMAND_PATIENCE_S
            # With --once nobody keeps them either, but until cron's next look that is as it should be.
            seen_to = (names or await allocs.names()) if is_once else ()
            return await alloc_rows(session, invocation.output.warn, seen_to)

    show_allocs(invocation.output, anyio.run(run))


def _place(settings: Settings, broker: Broker | None) -> JobPlace:
    """Where jobs go. What tells them the server is in variables; a password is only where this command has its own."""
    variables = {"MRUN_NAMESPACE": settings.namespace} | (broker_variable(settings, broker) if broker else {})
    return JobPlace(settings.state_dir / "alloc", Path(current_dir()), settings.namespace, variables)


def _keeper(session: Session, place: JobPlace, keeps_s: float) -> Keeper:
    allocs = Allocs(session.store, session.seal)
    return Keeper(new_worker_id(), allocs, session.store, session.views, place, desk_of=desk_of, keeps_s=keeps_s)


async def _refuse_twin(allocs: Allocs, terms: AllocTerms) -> None:
    """Raises UsageError if there is an allocation that submits the same jobs."""
    for name in await allocs.names():
        with suppress(NotFoundError, SealError):
            if submits_the_same(terms, (await allocs.look(name)).terms):
                hint = f"If you want both, give this one a --name; `mrun alloc remove {name}` removes the other."
                raise UsageError(f"Allocation '{name}' submits such jobs already, for these queues.", hint=hint)


async def _try(terms: AllocTerms, place: JobPlace) -> str:
    """The id that the trial job had. Raises LauncherError if it was refused."""
    return await try_out(desk_of(terms.kind), trial_job(terms, place, scheduler_of(terms.kind)), place)


def _show_job(output: Output, words: Sequence[str], script: str) -> None:
    output.say(f"  {shlex.join(words)}")
    for line in script.splitlines():
        output.say(f"  | {line}")


async def _remove(session: Session, place: JobPlace, name: str, request: str) -> None:
    """Have it removed by whoever keeps it, or do it here. LauncherError, if its jobs can't be cancelled."""
    await Allocs(session.store, session.seal).ask(name, request)
    keeper = _keeper(session, place, _REMOVE_MOST_S)
    with suppress(NotFoundError):
        try:
            with anyio.move_on_after(_REMOVE_MOST_S):
                while True:
                    maintained = await keeper.maintain(name)
                    if maintained is not None and maintained.is_removed:
                        return
                    await anyio.sleep(_LOOK_EVERY_S)
        finally:
            await keeper.give_up(name)
        hint = "It is removed as soon as its jobs are known: `mrun alloc list` shows what is wrong."
        raise LauncherAwayError(f"Allocation '{name}' is not removed yet.", hint=hint)


def _ask(invocation: Invocation, name: str, request: str, done: str) -> None:
    async def run() -> None:
        async with invocation.session() as session:
            await Allocs(session.store, session.seal).ask(name, request)

    anyio.run(run)
    invocation.output.data({"name": name, "status": done})
    invocation.output.ids([name])
    invocation.output.say(f"{name}  {done}")
