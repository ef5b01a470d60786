"""What the read-only views make of the counters."""

from __future__ import annotations

import msgspec

from mrun.engine.records import OutcomeRun, Settlement
from mrun.engine.store.store import Store
from mrun.engine.store.views import StepFacts, Views
from tests.store.plans import SEAL, IdleWorker, S, make_plan, submit


async def test_samples_that_took_no_time_have_a_mean_of_zero(store: Store) -> None:
    # Given a sample whose milliseconds round to 0: the moves write no counter for that
    steps = msgspec.json.encode([StepFacts("a", 1, 1, ("q",))]).decode()
    study = await submit(store, make_plan(1, S("a")), workspace="/nowhere", steps=steps)
    worker = IdleWorker(store, "w")
    await worker.beat()
    (claim,) = await worker.claim()
    run = OutcomeRun(1, "finished")
    assert (await store.settle("w", [Settlement(claim.text, 0, 1, (run,), elapsed_ms=0.0)])).answers == ("ok",)
    (step,) = (await Views(store, SEAL).status(study)).steps
    assert (step.finished, step.mean_s) == (1, 0.0)
