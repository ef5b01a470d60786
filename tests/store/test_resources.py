"""A claim takes no more of a worker than is free, passes over what does not fit, and keeps room that is promised."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mrun.engine.records import ClaimAnswer, ClaimRequest, Kept, OutcomeRun, Room
from mrun.engine.resources import Demand, encode_demands
from mrun.engine.store.demands import ClassFacts, class_facts, find_stranded
from mrun.engine.store.store import Store
from mrun.engine.store.views import Views
from tests.store.plans import SEAL, IdleWorker, S, make_plan, submit

LARGE = {"slots": 1, "cpus": 4}


async def queue(store: Store, samples: int, *demands: Demand, **facts: Any) -> str:
    """A study with a step for each demand, all on one queue unless `queues` says otherwise, one sample a claim."""
    queues = facts.pop("on", ["q"] * len(demands))
    steps = [
        S(f"s{number}", queue=name, options={"chunk": 1, "resource_class": number, "demand": demand})
        for number, (demand, name) in enumerate(zip(demands, queues, strict=True))
    ]
    plan = make_plan(samples, *steps)
    told: dict[str, Any] = {
        "demands": encode_demands(plan.class_demands()).decode(),
        "class_steps": msgspec.json.encode(plan.class_steps()).decode(),
    }
    return await submit(store, plan, **told, **facts)


class Greedy(IdleWorker):
    """Tells what it has, and keeps the whole answer."""

    async def ask(self, free: dict[str, int], total: dict[str, int] | None = None, **rest: Any) -> ClaimAnswer:
        kept, is_strict = rest.get("kept"), bool(rest.get("is_strict", True))
        whole = {"slots": 8, "cpus": 8, "jobs": 100} if total is None else total
        room = Room({"slots": 8, "jobs": 100} | free, whole, is_strict, kept)
        answer = await self.store.claim(self.name, ClaimRequest(0, self.queues, room=room))
        for claim in answer.claims:
            self.claims[claim.number] = claim
        return answer


async def worker_of(store: Store, *queues: str) -> Greedy:
    worker = Greedy(store, "w", queues or ("q",), 8)
    await worker.beat()
    return worker


def taken(answer: ClaimAnswer) -> list[tuple[int, dict[str, int]]]:
    """(node, what it takes) of each claim."""
    return [(claim.node, claim.takes) for claim in answer.claims]


async def test_as_many_claims_as_there_is_room_for(store: Store) -> None:
    await queue(store, 20, Demand(cpus=3))
    answer = await (await worker_of(store)).ask({"cpus": 8})
    assert taken(answer) == [(0, {"slots": 1, "cpus": 3})] * 2
    # What is left waits for its turn, but it has just had one
    assert (answer.waiting, answer.unfit) == ((), ())


async def test_slots_bound_what_resources_would_allow(store: Store) -> None:
    await queue(store, 20, Demand())
    answer = await (await worker_of(store)).ask({"cpus": 8, "slots": 3})
    assert len(answer.claims) == 3


async def test_a_class_that_needs_what_the_worker_has_not_is_passed_over_unread(store: Store) -> None:
    # Given a step with a GPU, one with a licence, and one with neither
    needs = Demand(gpus=1), Demand(named=(("licenses/x", 2),)), Demand()
    study = await queue(store, 3, *needs)
    # When a worker without either claims
    answer = await (await worker_of(store)).ask({"cpus": 8})
    # I expect the third step's samples, the others told as unfit, and their streams as they were
    assert {node for node, _ in taken(answer)} == {2}
    assert answer.unfit == (f"{study}:0", f"{study}:1")
    for number in (0, 1):
        assert await store.client.xlen(store.keys.stream("q", study, number)) == 1


async def test_named_resources_are_counted(store: Store) -> None:
    await queue(store, 9, Demand(named=(("licenses/x", 2),)))
    total = {"slots": 8, "cpus": 8, "licenses/x": 5}
    answer = await (await worker_of(store)).ask({"cpus": 8, "licenses/x": 5}, total)
    assert taken(answer) == [(0, {"slots": 1, "cpus": 1, "licenses/x": 2})] * 2


async def test_an_exclusive_sample_waits_for_all_of_the_worker_and_then_takes_it(store: Store) -> None:
    study = await queue(store, 2, Demand(gpus=1, is_exclusive=True))
    worker, total = await worker_of(store), {"slots": 8, "cpus": 8, "gpus": 2}
    # Given that one CPU is in use
    busy = await worker.ask({"cpus": 7, "gpus": 2}, total)
    whole = {"slots": 1, "cpus": 8, "gpus": 2}
    assert not busy.claims
    assert [(one.queue, one.stream, one.needs) for one in busy.waiting] == [("q", f"{study}:0", whole)]
    # When it is free I expect one claim of everything
    assert taken(await worker.ask({"cpus": 8, "gpus": 2}, total)) == [(0, whole)]


async def test_more_cpus_than_were_found_are_all_of_them_and_more_than_were_told_are_elsewhere(store: Store) -> None:
    study = await queue(store, 9, Demand(cpus=36))
    worker = await worker_of(store)
    assert (await worker.ask({"cpus": 8}, is_strict=True)).unfit == (f"{study}:0",)
    assert taken(await worker.ask({"cpus": 8}, is_strict=False)) == [(0, {"slots": 1, "cpus": 8})]


async def test_jobs_need_no_slot(store: Store) -> None:
    await queue(store, 9, Demand(is_job=True), Demand())
    answer = await (await worker_of(store)).ask({"slots": 0, "cpus": 0, "jobs": 3})
    assert taken(answer) == [(0, {"jobs": 1})] * 3


async def test_the_first_in_turn_that_does_not_fit_is_told(store: Store) -> None:
    # Given two large classes of which the first has had its turn, and a small one
    study = await queue(store, 9, Demand(cpus=4), Demand(cpus=5), Demand())
    worker = await worker_of(store)
    await worker.ask({"cpus": 4})
    # When there is room for neither
    answer = await worker.ask({"cpus": 3})
    # I expect that the other is the first, and the small one to have the room meanwhile
    assert [one.stream for one in answer.waiting] == [f"{study}:1"]
    assert [node for node, _ in taken(answer)] == [2, 2, 2]


async def test_others_take_only_what_a_promise_leaves(store: Store) -> None:
    study = await queue(store, 50, Demand(cpus=4), Demand())
    worker = await worker_of(store)
    # Given three free CPUs, and that of four which will be free then, one is not needed
    kept = Kept("q", f"{study}:0", {"slots": 7, "cpus": 1}, 0)
    answer = await worker.ask({"cpus": 3}, kept=kept)
    # I expect one small claim, and to be told that more would have fitted
    assert [node for node, _ in taken(answer)] == [1]
    assert answer.is_kept == 1
    assert [one.stream for one in answer.waiting] == [f"{study}:0"]


async def test_a_promised_class_takes_its_room_and_the_promise_is_kept_then(store: Store) -> None:
    study = await queue(store, 50, Demand(cpus=4), Demand())
    worker = await worker_of(store)
    kept = Kept("q", f"{study}:0", {"slots": 7, "cpus": 1}, 0)
    answer = await worker.ask({"cpus": 6}, kept=kept)
    # Nothing has to be kept any more for who got its turn
    assert sorted(node for node, _ in taken(answer)) == [0, 1, 1]
    assert (answer.waiting, answer.is_kept) == ((), 0)


@pytest.mark.parametrize(("window_ms", "count"), [(400, 0), (2000, 3)])
async def test_samples_known_to_end_in_time_use_promised_room(store: Store, window_ms: int, count: int) -> None:
    # Given a small step whose samples are known to take half a second
    study = await queue(store, 50, Demand(cpus=4), Demand())
    worker = await worker_of(store)
    first = next(claim for claim in (await worker.ask({"cpus": 1})).claims if claim.node == 1)
    await store.client.hset(store.keys.instance(study, 1), "pace_ms", "500")
    await worker.settle(first, OutcomeRun(1, "finished"))
    await store.client.hset(store.keys.instance(study, 1), "pace_ms", "500")
    # When three CPUs are kept for so long
    answer = await worker.ask({"cpus": 3}, kept=Kept("q", f"{study}:0", {}, window_ms))
    assert [(claim.node, claim.pace_ms) for claim in answer.claims] == [(1, 500)] * count
    assert answer.is_kept == (count == 0)


async def test_samples_of_unknown_length_do_not_use_promised_room(store: Store) -> None:
    study = await queue(store, 50, Demand(cpus=4), Demand())
    worker = await worker_of(store)
    answer = await worker.ask({"cpus": 3}, kept=Kept("q", f"{study}:0", {}, 60_000))
    assert (answer.claims, answer.is_kept) == ((), 1)


async def test_a_promise_does_not_hold_against_higher_priorities(store: Store) -> None:
    low = await queue(store, 50, Demand(cpus=4))
    await queue(store, 50, Demand(), priority=1)
    answer = await (await worker_of(store)).ask({"cpus": 3}, kept=Kept("q", f"{low}:0", {}, 0))
    assert len(answer.claims) == 3


@pytest.mark.parametrize(("queues", "count"), [(("q", "r"), 0), (("r", "q"), 3)])
async def test_a_promise_does_not_hold_against_queues_that_are_named_before(
    store: Store, queues: tuple[str, ...], count: int
) -> None:
    study = await queue(store, 50, Demand(cpus=4), Demand(), on=["q", "r"])
    answer = await (await worker_of(store, *queues)).ask({"cpus": 3}, kept=Kept("q", f"{study}:0", {}, 0))
    assert len(answer.claims) == count


async def test_what_is_passed_over_rings_for_others(store: Store) -> None:
    # Given the bell's token taken by a worker
    await queue(store, 3, Demand(gpus=1))
    worker, bell = await worker_of(store), store.keys.bell("q")
    await store.client.delete(bell)
    # When that worker can't run what there is
    await worker.ask({"cpus": 8})
    # I expect a token for another one
    assert await store.client.llen(bell) == 1


@pytest.mark.parametrize("damaged", ["{", "1", "[1]", "[[1]]", '["", 2]', '[[{"slots": 0, "cpus": "x"}, 1]]'])
async def test_demands_that_were_damaged_fail_their_study_or_are_those_of_most_steps(
    store: Store, damaged: str
) -> None:
    study = await queue(store, 3, Demand(cpus=4))
    await store.client.hset(store.keys.study(study), "demands", damaged)
    answer = await (await worker_of(store)).ask({"cpus": 8})
    has_failed = await store.client.hget(store.keys.study(study), "state") == b"failed"
    assert taken(answer) == ([] if has_failed else [(0, {"slots": 1, "cpus": 1})] * 3)


async def test_classes_are_told_with_their_steps(store: Store) -> None:
    study = await queue(store, 3, Demand(cpus=4), Demand(gpus=1))
    assert await class_facts(store, study) == [
        ClassFacts(("s0",), LARGE), ClassFacts(("s1",), {"slots": 1, "cpus": 1, "gpus": 1}),
    ]  # fmt: skip
    assert await class_facts(store, "unknown") == []


@pytest.mark.parametrize(
    ("resources", "has_told", "stranded"),
    [
        ("cpus=8,gpus=1", True, []),
        ("cpus=8", True, [("s1", {"gpus": 1})]),
        ("cpus=2,gpus=1", True, [("s0", {"cpus": 4})]),
        ("cpus=2", False, [("s1", {"gpus": 1})]),
    ],
)
async def test_what_no_worker_of_a_queue_can_run_is_found(
    store: Store, resources: str, has_told: bool, stranded: list[tuple[str, dict[str, int]]]
) -> None:
    facts = {"queues": "q", "steps": msgspec.json.encode([("s0", 1, 3, ("q",)), ("s1", 1, 3, ("q",))]).decode()}
    await queue(store, 3, Demand(cpus=4), Demand(gpus=1), workspace="/nowhere", class_count=2, **facts)
    await (await worker_of(store)).beat()
    await store.client.hset(store.keys.worker("w"), mapping={"resources": resources, "has_told_cpus": int(has_told)})
    found = await find_stranded(store, await Views(store, SEAL).inspect())
    assert [(*one.steps, one.needs) for one in found] == stranded
