"""What several workers do to studies, on the server and in the model at once: each answer must be the model's."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

from mrun.engine.records import (
    BEGINS,
    LEFT_RESUMING,
    MAY_HAVE_STARTED,
    RESUMES,
    BeatAnswer,
    ClaimAnswer,
    ClaimRequest,
    OutcomeRun,
    Room,
    SettleAnswer,
    Settlement,
)
from mrun.engine.resources import Demand, encode_demands, fits
from mrun.engine.store import stored_plan
from tests.store.plans import SEAL, counts_of
from tests.store.promise import LEASE_S, OPEN, End, Held, Past, Promise
from tests.store.small_moves import QUEUES, WORKERS, Moves, decode, encode

#: What `resume` of a sample becomes when its worker dies: it may have been started.
LEFT = {
    BEGINS: MAY_HAVE_STARTED,
    RESUMES: LEFT_RESUMING,
    MAY_HAVE_STARTED: MAY_HAVE_STARTED,
    LEFT_RESUMING: LEFT_RESUMING,
}
#: What the three classes of a plan take.
DEMANDS = (Demand(), Demand(cpus=2), Demand(gpus=1, is_exclusive=True))


class Account:
    """Who holds what, by the server and by the workers' belief, and the promise to each study."""

    def __init__(self, moves: Moves) -> None:
        super().__init__()
        self.moves, self.client = moves, moves.client
        self.moves.begin()
        self.keys = moves.keys
        self.promises: dict[str, Promise] = {}
        #: What the server has for each worker that it knows; and what each worker believes to hold.
        self.held: dict[str, dict[int, Held]] = {}
        self.known: dict[str, dict[int, Held]] = {w: {} for w in WORKERS}
        self.highest = dict.fromkeys(WORKERS, 0)
        self.deaths: set[str] = set()
        self.tokens = itertools.count(1)

    def _queue(self, plan) -> None:
        study = f"study{len(self.promises)}"
        fields = [word for pair in stored_plan.encode_plan(plan, study, SEAL) for word in pair]
        facts = ["name", "test", "root", study, "walltimes", "[0,0,0]", "priority", 0]
        facts += ["instances_left", len(plan.nodes), "step_count", len(plan.steps), "demands", encode_demands(DEMANDS)]
        self.moves.run("submit", study, 3600, "plan", *fields)
        for _ in range(2):
            assert self.moves.run("commit", study, len(fields) // 2, 0, "", *facts) == b"committed"
        self.promises[study] = Promise(study, plan)

    def _grow(self, study: str, plan) -> bytes:
        fields = [word for pair in stored_plan.encode_growth(plan, study, SEAL) for word in pair]
        name = str(plan.samples.edition)
        self.moves.run("submit", study, 3600, f"grown:{name}", *fields)
        growing = encode(stored_plan.growing_steps(plan))
        return self.moves.run("grow", study, plan.samples.edition, len(fields) // 2, growing, b"[]", name)

    def _beat(self, worker: str) -> None:
        known, held = self.known[worker], self.held.setdefault(worker, {})
        listed = [f"{n}:{one.study}" for n, one in known.items()]
        request = [LEASE_S * 1000, listed, str(self.highest[worker]), False]
        request += [["queues", ",".join(QUEUES), "slots", 2], -1]
        answer = decode(self.moves.run("beat", worker, encode(request)), BeatAnswer)
        assert answer.status == "ok"
        for number in [n for n in known if self._is_purged(held.get(n))]:
            held.pop(number, None)
        assert {int(text.partition(":")[0]) for text in answer.lost} == set(known) - set(held)
        for number in set(known) - set(held):
            del known[number]
        for number in [n for n in held if n not in known and n <= self.highest[worker]]:
            del held[number]

    def _claim(
        self, worker: str, slots: int, is_twice: bool, is_late: bool, room: Room | None = None
    ) -> tuple[dict[int, Held], bool]:
        token, request = next(self.tokens), encode(ClaimRequest(slots, QUEUES, room=room))
        raw = self.moves.run("claim", worker, token, request)
        if is_twice:
            assert self.moves.run("claim", worker, token, request) == raw
        if is_late and token > 1:
            assert decode(self.moves.run("claim", worker, token - 1, request), ClaimAnswer).claims == ()
        answer = decode(raw, ClaimAnswer)
        fresh: dict[Any, Any] = {}
        assert answer.status == "ok"
        if room is None:
            assert len(answer.claims) <= slots
        else:
            taken: Counter[str] = Counter()
            for claim in answer.claims:
                taken.update(claim.takes)
            assert fits(taken, room.free), f"{taken} of {room}"
        for claim in answer.claims:
            promise = self.promises[claim.study]
            places = promise.places()[claim.node]
            assert not promise.is_stopped
            for i in range(claim.lo, claim.hi):
                assert places[i] == OPEN, f"sample {i} of node {claim.node} is {places[i]}"
                assert promise.past(claim.node, i) == Past(claim.attempt, claim.losses, claim.resume)
                assert not self._is_held(claim.study, claim.node, i), "claimed twice"
            assert claim.number > self.highest[worker]
            self.highest[worker] = claim.number
            for book in (self.held[worker], self.known[worker], fresh):
                book[claim.number] = Held(claim.study, claim.node, claim.lo, claim.hi)
        return fresh, bool(answer.has_more_work)

    def _settle(self, worker: str, wanted: list, is_twice: bool) -> None:
        settlements = []
        for number, outcomes in wanted:
            lo = self.known[worker][number].lo
            runs = [OutcomeRun(len(list(alike)), *outcome) for outcome, alike in itertools.groupby(outcomes)]
            settlements.append(
                Settlement(f"{number}:{self.known[worker][number].study}", lo, lo + len(outcomes), tuple(runs), 1.0)
            )
        token = next(self.tokens)
        raw = self.moves.run("settle", worker, token, encode(settlements))
        if is_twice and worker in self.held:
            assert self.moves.run("settle", worker, token, encode(settlements)) == raw
        for (number, outcomes), answer in zip(wanted, decode(raw, SettleAnswer).answers, strict=True):
            truth, believed = self.held.get(worker, {}).get(number), self.known[worker][number]
            if truth is None or (truth.lo, truth.hi) != (believed.lo, believed.hi):
                assert answer == "lost"
                del self.known[worker][number]
            elif self._is_purged(truth):
                assert answer == "gone"
                del self.known[worker][number], self.held[worker][number]
            else:
                self._account(truth, outcomes)
                # The last sample of a study that is stopping ends it: then nothing is stopping any more.
                is_stopped = self.promises[truth.study].is_stopped
                assert answer == "ok" or (answer == "stopping" and is_stopped), (answer, self._why(truth.study))
                believed.lo = truth.lo
                if truth.lo == truth.hi:
                    del self.known[worker][number], self.held[worker][number]

    def _account(self, held: Held, outcomes: list) -> None:
        promise = self.promises[held.study]
        for state, resume, flags in outcomes:
            sample = (held.node, held.lo)
            held.lo += 1
            if state == "retry" and not promise.is_stopped:
                past = promise.past(*sample)
                promise.pasts[sample] = replace(past, attempt=past.attempt + 1, resume=resume)
                continue
            assert sample not in promise.ends, "settled twice"
            promise.ends[sample] = End("cancelled" if state == "retry" else state, flags % 2 == 1)
            if flags & 2 and not promise.is_stopped:
                promise.is_stopped, promise.outcome = True, "failed"

    def _lose(self, held: Held, loss: int) -> None:
        """A worker died: its samples are for others, or dead."""
        promise = self.promises[held.study]
        if promise.is_stopped:
            return
        most = promise.step_of(held.node).max_losses
        for i in range(held.lo, held.hi):
            past = promise.past(held.node, i)
            if loss and held.hi - held.lo == 1 and 0 < most <= past.losses + 1:
                promise.ends[held.node, i] = End("dead")
            else:
                promise.pasts[held.node, i] = replace(past, losses=past.losses + loss, resume=LEFT[past.resume])

    def _leave(self, worker: str) -> None:
        while self.moves.run("leave", worker) == b"more":
            pass
        del self.held[worker]

    @staticmethod
    def _cut(book: dict[int, Held], number: int, lo: int) -> None:
        held = book[number]
        held.hi = min(held.hi, lo)
        if held.hi <= held.lo:
            del book[number]

    # ---------------------------------------------------------------------------------------------- what is true

    def _why(self, study: str) -> str:
        return str(self.client.hget(self.keys.study(study), "why"))

    def _is_purged(self, held: Held | None) -> bool:
        return held is not None and self.promises[held.study].is_purged

    def _is_held(self, study: str, node: int, sample: int) -> bool:
        claims = [held for claims in self.held.values() for held in claims.values()]
        return any(h.study == study and h.node == node and h.lo <= sample < h.hi for h in claims)

    def _running(self, study: str, step: int | None = None) -> int:
        promise = self.promises[study]
        return sum(
            held.hi - held.lo
            for claims in self.held.values()
            for held in claims.values()
            if held.study == study and (step is None or promise.plan.nodes[held.node].step == step)
        )

    def _has_todo(self) -> bool:
        return bool(self.client.exists(self.keys.todo))

    def _counts(self, study: str, step: int) -> dict[str, int]:
        return counts_of(self.client.hgetall(self.keys.study(study)), step)
