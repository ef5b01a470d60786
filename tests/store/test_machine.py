"""Random sequences of moves by several workers, against a small model of the promise, on real servers.

MRUN_MACHINE_EXAMPLES=2000 looks longer. A failure prints the shrunk sequence and a blob that repeats it.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mrun.engine.records import Kept, ReclaimAnswer, Room
from mrun.engine.store import stored_plan
from tests.conftest import TestServer
from tests.store.checks import Checks
from tests.store.plans import S, larger, make_plan
from tests.store.promise import LEASE_S, Held, is_ended
from tests.store.small_moves import QUEUES, WORKERS, Moves, decode

EXAMPLES = int(os.environ.get("MRUN_MACHINE_EXAMPLES", "50"))


@st.composite
def plans(draw):
    """One to five steps: with and without samples, with and without rows, joined in any way, on two queues."""
    rows = draw(st.integers(2, 3))
    steps: list[S] = []
    for index in range(draw(st.integers(1, 5))):
        parents = (
            draw(st.lists(st.sampled_from(steps), min_size=1, max_size=3, unique_by=lambda s: s.name))
            if steps and draw(st.integers(0, 4))
            else []
        )
        has_rows = draw(st.booleans())
        after = tuple(p.name + "*" * draw(st.integers(0, 1)) for p in parents)
        options = {
            "chunk": draw(st.sampled_from([None, 1, 3, 20])),
            "max_losses": draw(st.integers(0, 2)),
            "resource_class": draw(st.integers(0, 2)),
            "retry_delay_s": 0.0,
        }
        uses_samples, queue = draw(st.integers(0, 3)) > 0, draw(st.sampled_from(QUEUES))
        steps.append(S(f"s{index}", uses_samples, after, queue, rows if has_rows else 0, options))
    return make_plan(draw(st.sampled_from([1, 2, 7, 8, 9, 16, 19])), *steps)


#: What a worker may have free, of three slots and CPUs and a GPU, with or without a promise.
ROOMS = st.none() | st.builds(
    Room,
    st.fixed_dictionaries({"slots": st.integers(1, 3), "cpus": st.integers(0, 3), "gpus": st.integers(0, 1)}),
    st.sampled_from([{"slots": 3, "cpus": 3, "gpus": 1}, {"slots": 3, "cpus": 3}, {"slots": 3, "cpus": 1}]),
    st.booleans(),
    st.none()
    | st.builds(
        Kept,
        st.sampled_from(QUEUES),
        st.sampled_from(["study0:0", "study0:1", "study1:1", "study1:2"]),
        st.fixed_dictionaries({"slots": st.integers(0, 3), "cpus": st.integers(0, 3)}),
        st.sampled_from([0, 1, 1000]),
    ),
)
#: Finished; failed; blocking; to be run again; and one that stops the study.
OUTCOMES = st.sampled_from(
    [("finished", 0, 0)] * 4 + [("failed", 0, 0), ("failed", 0, 1), ("failed", 0, 1), ("retry", 0, 0), ("retry", 1, 0)]
)


class StoreMachine(Checks, RuleBasedStateMachine):
    """What the server says of every study must be what the model says."""

    # ------------------------------------------------------------------------------------------------ rules

    @initialize(plan=plans())
    def first_study(self, plan) -> None:
        self._queue(plan)
        self._beat("w0")

    @precondition(lambda self: len(self.promises) < 2)
    @rule(plan=plans())
    def another_study(self, plan) -> None:
        self._queue(plan)

    @rule(worker=st.sampled_from(WORKERS), data=st.data())
    def beat(self, worker, data) -> None:
        """A beat; before it, the worker may have forgotten claims: their answers never came."""
        known = self.known[worker]
        for number in list(known):
            if data.draw(st.integers(0, 9)) == 0:
                del known[number]
        self._beat(worker)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), slots=st.integers(1, 5), is_twice=st.booleans(), is_late=st.booleans())
    def claim(self, data, slots, is_twice, is_late) -> None:
        worker = data.draw(st.sampled_from(sorted(self.held)))
        self._claim(worker, slots, is_twice, is_late, data.draw(ROOMS))

    @precondition(lambda self: any(self.known.values()))
    @rule(data=st.data(), is_twice=st.booleans())
    def settle(self, data, is_twice) -> None:
        """One request for some claims of a worker: parts or all of them, whether they are still its own or not."""
        worker = data.draw(st.sampled_from([w for w in WORKERS if self.known[w]]))
        numbers = data.draw(st.lists(st.sampled_from(sorted(self.known[worker])), min_size=1, max_size=4, unique=True))
        wanted = []
        for number in numbers:
            believed = self.known[worker][number]
            count = data.draw(st.integers(1, believed.hi - believed.lo))
            if data.draw(st.booleans()):
                count = believed.hi - believed.lo
            wanted.append((number, data.draw(st.lists(OUTCOMES, min_size=count, max_size=count))))
        if data.draw(st.integers(0, 29)) == 0:
            wanted[0][1][0] = ("failed", 0, 3)
        self._settle(worker, wanted, is_twice)

    @precondition(lambda self: any(self.known.values()))
    @rule(data=st.data(), is_started=st.booleans(), is_loss=st.booleans(), is_twice=st.booleans())
    def hand_back(self, data, is_started, is_loss, is_twice) -> None:
        worker = data.draw(st.sampled_from([w for w in WORKERS if self.known[w]]))
        number = data.draw(st.sampled_from(sorted(self.known[worker])))
        believed = self.known[worker][number]
        lo = data.draw(st.integers(believed.lo, believed.hi - 1))
        words = ("hand_back", worker, f"{number}:{believed.study}", lo, int(is_started), 0, int(is_loss))
        answer = self.moves.run(*words)
        truth = self.held.get(worker, {}).get(number)
        assert answer == (b"ok" if truth else b"lost")
        if is_twice:
            self.moves.run(*words)
        if truth:
            promise = self.promises[truth.study]
            if is_started:
                promise.pasts[truth.node, lo] = replace(promise.past(truth.node, lo), resume=1)
                if is_loss:
                    self._lose(Held(truth.study, truth.node, lo, lo + 1), 1)
            self._cut(self.held[worker], number, lo)
        self._cut(self.known[worker], number, lo)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), is_soon=st.booleans(), is_known=st.booleans())
    def expire(self, data, is_soon, is_known) -> None:
        """A lease ends and another worker sweeps; the dead one may know nothing of it, and go on."""
        dead = data.draw(st.sampled_from(sorted(self.held)))
        if not is_soon:
            self.client.delete(self.keys.deaths)
            self.deaths.clear()
        self.client.zadd(self.keys.workers, {dead: 1})
        now_ms = int(self.client.get(f"{self.keys.root}time")) + int(
            self.client.hget(self.keys.clock, "set_back_ms") or 0
        )
        self.client.hset(self.keys.clock, mapping={"swept_ms": now_ms, "is_set_back": 0})
        self.deaths.add(dead)
        loss = 0 if len(self.deaths) >= 3 else 1
        for _ in range(100):
            if dead in decode(self.moves.run("reclaim", "sweeper"), ReclaimAnswer).removed_workers:
                break
        else:
            raise AssertionError("the dead worker is never removed")
        for held in self.held.pop(dead).values():
            self._lose(held, loss)
        if is_known:
            self.known[dead].clear()

    @precondition(lambda self: self.held)
    @rule(by_s=st.sampled_from([-3600, -1, 1, 3600]))
    def step_clock(self, by_s) -> None:
        """The server's clock is set, and somebody sweeps: nobody is believed dead for it."""
        self.moves.run("reclaim", "sweeper")
        self.client.incrby(f"{self.keys.root}time", 1000 * by_s)
        if by_s > LEASE_S:
            self.deaths.clear()
        assert decode(self.moves.run("reclaim", "sweeper"), ReclaimAnswer).removed_workers == ()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def leave(self, data) -> None:
        self._leave(data.draw(st.sampled_from(sorted(self.held))))

    @precondition(lambda self: self.promises)
    @rule(data=st.data(), is_kill=st.booleans(), dice=st.integers(0, 7))
    def cancel(self, data, is_kill, dice) -> None:
        study = data.draw(st.sampled_from(sorted(self.promises)))
        if dice:
            return
        status, running = decode(self.moves.run("cancel", study, int(is_kill), "why"), tuple[str, int])
        promise = self.promises[study]
        if promise.is_purged:
            assert status == "gone"
        elif promise.is_stopped:
            assert status == ("ok" if self._running(study) else "ended") or self._has_todo()
        elif status == "ok":
            assert running == self._running(study)
            promise.is_stopped, promise.outcome = True, "cancelled"
        else:
            assert promise.is_over()

    @precondition(lambda self: self.promises)
    @rule(data=st.data(), dice=st.integers(0, 9))
    def purge(self, data, dice) -> None:
        study = data.draw(st.sampled_from(sorted(self.promises)))
        if dice:
            return
        promise = self.promises[study]
        answer = self.moves.run("purge", study)
        assert (answer == b"gone") <= promise.is_purged
        promise.is_purged = promise.is_stopped = True

    @precondition(lambda self: self.promises)
    @rule(data=st.data(), more=st.sampled_from([1, 3, 8, 11]), dice=st.integers(0, 3), is_twice=st.booleans())
    def grow(self, data, more, dice, is_twice) -> None:
        study = data.draw(st.sampled_from(sorted(self.promises)))
        promise = self.promises[study]
        if dice or promise.plan.samples.count > 30 or not any(step.uses_samples for step in promise.plan.steps):
            return
        plan = larger(promise.plan, more)
        answers = [self._grow(study, plan) for _ in range(1 + is_twice)]
        if answers[0] == b"grown":
            assert set(answers) == {b"grown"}
            promise.plan = plan
        elif answers[0] == b"passed":
            assert any(is_ended(place) for node in promise.places() for place in node)
        else:
            assert answers[0] == (b"gone" if promise.is_purged else b"ended")
            assert promise.is_purged or promise.is_stopped or promise.is_over()

    # -------------------------------------------------------------------------------------------- invariants

    @invariant()
    def counters_are_never_negative_and_never_too_many(self) -> None:
        for study, promise in self.promises.items():
            if promise.is_purged:
                continue
            for step in promise.plan.steps:
                counts = self._counts(study, step.index)
                assert all(value >= 0 for value in counts.values()), counts
                assert sum(counts.values()) <= promise.plan.size(step) * step.node_count
            state = self.client.hget(self.keys.study(study), "state")
            if state in (b"running", b"stopping"):
                assert int(self.client.hget(self.keys.study(study), "running")) == self._running(study)

    @invariant()
    def nothing_but_the_promise(self) -> None:
        """Only while no piece of work is left over: what is on todo has not happened yet."""
        if self._has_todo():
            return
        for study, promise in self.promises.items():
            if promise.is_purged:
                self._check_purged(study)
            elif promise.is_stopped:
                self._check_stopped(promise)
            elif promise.is_over():
                self._check_ended(promise, "finished")
            else:
                self._check_running(promise)

    def teardown(self) -> None:
        """One worker runs what is left; then nothing may be left over but counters with a time to live."""
        for worker in sorted(self.held):
            self._leave(worker)
        self._beat("w0")
        for _ in range(5000):
            claims, has_more = self._claim("w0", 5, False, False)
            for number, held in claims.items():
                self._settle("w0", [(number, [self._outcome(held, i) for i in range(held.lo, held.hi)])], False)
                self.nothing_but_the_promise()
            # It sleeps only if no bell rings: what a claim's own release work puts is for its next one.
            if not claims and not has_more and not self.client.delete(self.keys.bell("q"), self.keys.bell("r")):
                break
        else:
            raise AssertionError("the drain has no end")
        self.nothing_but_the_promise()
        for promise in self.promises.values():
            assert promise.is_purged or promise.is_stopped or promise.is_over()
            if not promise.is_purged:
                self._check_ended(promise, promise.outcome)
        self._leave("w0")
        self._check_namespace()

    def _outcome(self, held: Held, sample: int) -> tuple[str, int, int]:
        """How a sample ends in the drain: some block, some run twice, and most of all finish."""
        dice = (3 * held.node + sample) % 5
        if dice == 1 and self.promises[held.study].past(held.node, sample).attempt == 0:
            return ("retry", 0, 0)
        return ("failed", 0, 1) if dice == 3 else ("finished", 0, 0)


@pytest.mark.timeout(600)
def test_any_sequence_of_moves_keeps_the_promise(shared_server: TestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given fields of the plan that are short, so that continuations cross them
    monkeypatch.setattr(stored_plan, "_CHILDREN_A_FIELD", 2)
    monkeypatch.setattr(stored_plan, "_STREAMS_A_FIELD", 1)
    client = shared_server.client()
    client.flushall()
    moves = Moves(client)
    run_state_machine_as_test(
        lambda: StoreMachine(moves),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
    client.close()
