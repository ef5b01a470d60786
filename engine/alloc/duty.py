"""The duty of keeping allocations: rounds over all of them, until a signal, or until there is nothing left to keep."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import anyio
import msgspec

from mrun.engine.alloc.keeper import Keeper, Maintained
from mrun.engine.alloc.rules import FAILURES_MOST
from mrun.engine.errors import LauncherError, MrunError, NotFoundError
from mrun.engine.logging import log
from mrun.engine.stop_signals import stop_signals
from mrun.engine.store.allocs import Allocs

#: Who leaves tells the server, if it hears it within this time.
_FAREWELL_S = 2.0


class DutyOptions(msgspec.Struct, frozen=True):
    """How long to keep allocations. `names`: only these; none: all there are, and will be."""

    interval_s: float
    names: tuple[str, ...] = ()
    is_once: bool = False
    is_exit_when_done: bool = False


class Duty:
    """Keeps allocations, in rounds."""

    def __init__(self, keeper: Keeper, allocs: Allocs, options: DutyOptions) -> None:
        self._keeper, self._allocs, self._options = keeper, allocs, options
        #: What was said of an allocation: it is not said again until it changes.
        self._told: dict[str, str] = {}

    async def run(self) -> None:
        """Until a signal, or the end that the options name. Jobs stay as they are.

        Raises:
            NotFoundError: there is no allocation of a name that was given.
            LauncherError: it was to end, and something is wrong with an allocation.
        """
        for name in self._options.names:
            await self._allocs.look(name)
        try:
            async with anyio.create_task_group() as life:
                life.start_soon(self._watch_signals, life.cancel_scope)
                await self._rounds()
                life.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(_FAREWELL_S, shield=True):
                for name in await self._allocs.names():
                    await self._give_up(name)

    async def _rounds(self) -> None:
        options = self._options
        while True:
            names = await self._allocs.names()
            seen = [await self._maintain(name) for name in names if not options.names or name in options.names]
            maintained = [one for one in seen if one is not None]
            if options.is_once:
                _tell_errors(maintained)
                return
            if options.is_exit_when_done and len(maintained) == len(seen) and all(_is_over(one) for one in maintained):
                _tell_errors([one for one in maintained if not one.is_done])
                return
            if not seen:
                self._tell("", "no_allocs", does="waits for `mrun alloc add`")
            await anyio.sleep(options.interval_s)

    async def _maintain(self, name: str) -> Maintained | None:
        """See to one of them; what is wrong with it must not be the others' harm. None: not known, for now."""
        try:
            maintained = await self._keeper.maintain(name)
        except NotFoundError:
            return None
        except MrunError as error:
            self._tell(name, "alloc_stuck", why=error.message, hint=error.hint)
            return None
        if maintained is None:
            self._tell(name, "alloc_kept_elsewhere", does="takes over if that keeper goes")
        else:
            self._told.pop(name, None)
        return maintained

    async def _give_up(self, name: str) -> None:
        try:
            await self._keeper.give_up(name)
        except MrunError as error:
            log.debug("alloc_not_given_up", alloc=name, why=error.message)

    def _tell(self, name: str, event: str, **facts: str) -> None:
        if self._told.get(name) != event:
            self._told[name] = event
            log.warning(event, **({"alloc": name} if name else {}), **facts)

    async def _watch_signals(self, life: anyio.CancelScope) -> None:
        """Any of them ends the duty; a submission under way is brought to its end first."""
        with anyio.open_signal_receiver(*stop_signals()) as signals:
            async for number in signals:
                log.info("keeper_signalled", signal=signal.Signals(number).name)
                life.cancel()


def _is_over(maintained: Maintained) -> bool:
    """Done, or paused without a job, so that nothing more will happen by itself."""
    return maintained.is_done or (maintained.kept.state.is_paused and not maintained.kept.state.jobs)


def _tell_errors(maintained: Sequence[Maintained]) -> None:
    """Raise the first error that there is."""
    for kept in (one.kept for one in maintained):
        if kept.state.error:
            state = f"is paused after {FAILURES_MOST} failures" if kept.state.is_paused else "has an error"
            hint = f"`mrun alloc list` shows all of them; `mrun alloc resume {kept.terms.name}` tries again at once."
            raise LauncherError(f"Allocation '{kept.terms.name}' {state}: {kept.state.error}", hint=hint)
