"""Random sequences of moves by several workers, against a small model of the promise, on real servers.

The scripts are those of the store, but that a chunk of bits holds 8 samples and a move does 4 items of work: so borders
of chunks and continuations by other moves are met all the time. And the clock is a counter: a sequence can be repeated.

MRUN_MACHINE_EXAMPLES=2000 looks longer. A failure prints the shrunk sequence and a blob that repeats it.
"""

from __future__ import annotations

import itertools
import os
import secrets
from dataclasses import replace

import msgspec
import pytest
import redis as sync_redis
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

from mrun.engine.records import (
    BeatAnswer,
    ClaimAnswer,
    ClaimRequest,
    OutcomeRun,
    ReclaimAnswer,
    SettleAnswer,
    Settlement,
)
from mrun.engine.store import stored_plan
from mrun.engine.store.keys import Keys
from mrun.engine.store.store import _move_text
from tests.conftest import TestServer
from tests.store.plans import SEAL, S, larger, make_plan
from tests.store.promise import LEASE_S, OPEN, SKIPPED, End, Held, Past, Promise, is_ended

CHUNK = 8
CHANGES = {
    "local CHUNK = 1048576": f"local CHUNK = {CHUNK}",
    "local ITEMS = 200": "local ITEMS = 4",
    "STREAM_RANGES_MOST, LATER_MOST = 16, 1024, 1000": "STREAM_RANGES_MOST, LATER_MOST = 1, 1, 1",
    "local LOOSE_CHUNK = 8192": "local LOOSE_CHUNK = 8",
    "local LATE_MS = 250": "local LATE_MS = 2",
    "local t = call('TIME'); return t[1] * 1000000 + t[2]": "return call('INCR', root .. 'clock') * 1000",
}
MOVES = ("submit", "commit", "claim", "settle", "hand_back", "beat", "reclaim", "leave", "cancel", "purge", "grow")
WORKERS = ("w0", "w1", "w2")
QUEUES = ("q", "r")
EXAMPLES = int(os.environ.get("MRUN_MACHINE_EXAMPLES", "50"))
encode = msgspec.msgpack.encode


def decode(raw, kind):
    return msgspec.msgpack.decode(raw, type=kind)


class Moves:
    """The moves on a namespace of its own, with small chunks and pieces, called as often as the test likes."""

    def __init__(self, client: sync_redis.Redis) -> None:
        self.client, self.scripts = client, {}
        for move in MOVES:
            text = _move_text(move)
            for old, new in CHANGES.items():
                assert text.count(old) == 1
                text = text.replace(old, new)
            self.scripts[move] = client.register_script(text)

    def begin(self) -> None:
        self.keys = Keys(f"t{secrets.token_hex(4)}")

    def run(self, move: str, *words):
        return self.scripts[move](keys=[self.keys.root], args=words)


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


#: Finished; failed; blocking; to be run again; and one that stops the study.
OUTCOMES = st.sampled_from(
    [("finished", 0, 0)] * 4 + [("failed", 0, 0), ("failed", 0, 1), ("failed", 0, 1), ("retry", 0, 0), ("retry", 1, 0)]
)


class StoreMachine(RuleBasedStateMachine):
    """What the server says of every study must be what the model says."""

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
        self._claim(worker, slots, is_twice, is_late)

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
    @rule(data=st.data(), is_started=st.booleans(), is_twice=st.booleans())
    def hand_back(self, data, is_started, is_twice) -> None:
        worker = data.draw(st.sampled_from([w for w in WORKERS if self.known[w]]))
        number = data.draw(st.sampled_from(sorted(self.known[worker])))
        believed = self.known[worker][number]
        lo = data.draw(st.integers(believed.lo, believed.hi - 1))
        words = ("hand_back", worker, str(number), lo, int(is_started), 0)
        answer = self.moves.run(*words)
        truth = self.held.get(worker, {}).get(number)
        assert answer == (b"ok" if truth else b"lost")
        if is_twice:
            self.moves.run(*words)
        if truth:
            promise = self.promises[truth.study]
            if is_started:
                promise.pasts[truth.node, lo] = replace(promise.past(truth.node, lo), resume=1)
            self._cut(self.held[worker], number, lo)
        self._cut(self.known[worker], number, lo)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), is_soon=st.booleans(), is_known=st.booleans())
    def expire(self, data, is_soon, is_known) -> None:
        """A lease ends and another worker sweeps; the dead one may know nothing of it, and go on."""
        dead = data.draw(st.sampled_from(sorted(self.held)))
        if not is_soon:
            self.client.delete(self.keys.named("deaths"))
            self.deaths.clear()
        self.client.zadd(self.keys.named("workers"), {dead: 1})
        self.client.set(self.keys.named("swept"), int(self.client.get(self.keys.named("clock"))))
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

    # ------------------------------------------------------------------------------------ moves with the model

    def _queue(self, plan) -> None:
        study = f"study{len(self.promises)}"
        fields = [word for pair in stored_plan.encode_plan(plan, study, SEAL) for word in pair]
        facts = ["name", "test", "root", study, "walltimes", "[0,0,0]", "priority", 0]
        facts += ["nodes_left", len(plan.nodes), "step_count", len(plan.steps)]
        self.moves.run("submit", study, 3600, "plan", *fields)
        for _ in range(2):
            assert self.moves.run("commit", study, len(fields) // 2, 0, "", *facts) == b"committed"
        self.promises[study] = Promise(study, plan)

    def _grow(self, study: str, plan) -> bytes:
        fields = [word for pair in stored_plan.encode_growth(plan, study, SEAL) for word in pair]
        self.moves.run("submit", study, 3600, "grown", *fields)
        growing = encode(stored_plan.growing_steps(plan))
        return self.moves.run("grow", study, plan.samples.edition, len(fields) // 2, growing, b"[]")

    def _beat(self, worker: str) -> None:
        known, held = self.known[worker], self.held.setdefault(worker, {})
        request = [LEASE_S * 1000, [str(n) for n in known], str(self.highest[worker]), False]
        request.append(["queues", ",".join(QUEUES), "slots", 2])
        answer = decode(self.moves.run("beat", worker, encode(request)), BeatAnswer)
        assert answer.status == "ok"
        for number in [n for n in known if self._is_purged(held.get(n))]:
            held.pop(number, None)
        assert {int(text) for text in answer.lost} == set(known) - set(held)
        for number in set(known) - set(held):
            del known[number]
        for number in [n for n in held if n not in known and n <= self.highest[worker]]:
            del held[number]

    def _claim(self, worker: str, slots: int, is_twice: bool, is_late: bool) -> tuple[dict[int, Held], bool]:
        token, request = next(self.tokens), encode(ClaimRequest(slots, QUEUES))
        raw = self.moves.run("claim", worker, token, request)
        if is_twice:
            assert self.moves.run("claim", worker, token, request) == raw
        if is_late and token > 1:
            assert decode(self.moves.run("claim", worker, token - 1, request), ClaimAnswer).claims == ()
        answer, fresh = decode(raw, ClaimAnswer), {}
        assert answer.status == "ok"
        assert len(answer.claims) <= slots
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
            settlements.append(Settlement(str(number), lo, lo + len(outcomes), tuple(runs), 1.0))
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
                assert answer == "ok" or (answer == "stopping" and self.promises[truth.study].is_stopped)
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
                resume = past.resume if loss or past.resume else 2
                promise.pasts[held.node, i] = replace(past, losses=past.losses + loss, resume=resume)

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
        return bool(self.client.exists(self.keys.named("todo")))

    def _counts(self, study: str, step: int) -> dict[str, int]:
        raw = self.client.hgetall(self.keys.step(study, step))
        states = ("ready", "running", "retrying", "finished", "failed", "dead", "skipped", "cancelled")
        return {state: int(raw.get(state.encode(), 0)) for state in states}

    # ------------------------------------------------------------------------------------------------- checks

    def _check_running(self, promise: Promise) -> None:
        study = promise.study
        assert self.client.hget(self.keys.study(study), "state") == b"running"
        later = self.client.zrange(f"{self.keys.study(study)}:later", 0, -1)
        retrying = self._ranges(promise, [text.decode() for text in later])
        ready = self._ranges(promise, self._undelivered(promise))
        assert not ready & retrying
        places = promise.places()
        want = {(n, i) for n, row in enumerate(places) for i, place in enumerate(row) if place == OPEN}
        assert ready | retrying == {sample for sample in want if not self._is_held(study, *sample)}
        for step in promise.plan.steps:
            counts = self._counts(study, step.index)
            model = promise.counts(step.index)
            assert counts["running"] == self._running(study, step.index)
            in_step = [sum(promise.plan.nodes[n].step == step.index for n, _ in which) for which in (ready, retrying)]
            assert [counts["ready"], counts["retrying"]] == in_step
            for state in ("finished", "failed", "dead", "skipped", "cancelled"):
                assert counts[state] == model[state], state
        self._check_bits(promise, places)
        self._check_queues(promise)

    def _check_stopped(self, promise: Promise) -> None:
        if not self._running(promise.study):
            self._check_ended(promise, promise.outcome)
            return
        assert self.client.hget(self.keys.study(promise.study), "state") == b"stopping"
        for queue, number in itertools.product(QUEUES, range(3)):
            assert not self.client.exists(self.keys.stream(queue, promise.study, number))

    def _check_ended(self, promise: Promise, outcome: str) -> None:
        study = promise.study
        assert self.client.hget(self.keys.study(study), "state") == outcome.encode()
        for step in promise.plan.steps:
            counts, model = self._counts(study, step.index), promise.counts(step.index)
            assert counts["running"] == 0
            ended = sum(1 for n, _ in promise.ends if promise.plan.nodes[n].step == step.index)
            assert sum(counts[state] for state in ("finished", "failed", "dead", "cancelled")) == ended
            if not promise.is_stopped:
                assert counts["skipped"] == model[SKIPPED]
                assert (counts["ready"], counts["retrying"]) == (0, 0)
        keys = self.client.keys(f"{self.keys.root}*{study}*")
        steps = {self.keys.step(study, step.index).encode() for step in promise.plan.steps}
        assert set(keys) <= steps | {self.keys.study(study).encode(), self.keys.reasons(study).encode()}
        assert all(self.client.ttl(key) > 0 for key in keys)

    def _check_purged(self, study: str) -> None:
        assert self.client.keys(f"{self.keys.root}*{study}*") == []

    def _undelivered(self, promise: Promise) -> list[str]:
        texts = []
        for queue, number in itertools.product(QUEUES, range(3)):
            stream = self.keys.stream(queue, promise.study, number)
            if not self.client.exists(stream):
                continue
            pending = {entry["message_id"] for entry in self.client.xpending_range(stream, "workers", "-", "+", 1000)}
            entries = self.client.xrange(stream)
            assert pending <= {entry for entry, _ in entries}
            assert len(pending) == self._shared(promise.study, queue, number)
            texts += [fields[b"t"].decode() for entry, fields in entries if entry not in pending]
            is_marked = self.client.zscore(self.keys.named(f"queue:{queue}"), f"{promise.study}:{number}") is not None
            assert is_marked or len(pending) == len(entries), "nobody will find it"
        return texts

    def _shared(self, study: str, queue: str, number: int) -> int:
        """Entries of a stream that claims come from."""
        prefix = f"={queue} {study} {number} ".encode()
        return sum(f.startswith(prefix) for w in self.held for f in self.client.hkeys(self.keys.held(w)))

    def _ranges(self, promise: Promise, texts: list[str]) -> set[tuple[int, int]]:
        found: set[tuple[int, int]] = set()
        for text in texts:
            node, indices, attempt, losses, resume = self._task(promise, text)
            samples = {(node, i) for i in indices}
            assert not samples & found, "put twice"
            assert {promise.past(*sample) for sample in samples} == {Past(attempt, losses, resume)}
            found |= samples
        return found

    def _task(self, promise: Promise, text: str) -> tuple[int, list[int], int, int, int]:
        if not text.startswith("*"):
            node, lo, hi, *past = (int(word) for word in text.split())
            return node, list(range(lo, hi)), *past
        # Samples as bits: of an entry, or of a retry that waits
        kind = "late" if " " in text else "loose"
        name = text[1:].rpartition(" ")[2]
        raw = self.client.get(f"{self.keys.study(promise.study)}:{kind}:{text if kind == 'late' else name}")
        bits = [i for i, bit in enumerate("".join(f"{byte:08b}" for byte in raw)) if bit == "1"]
        assert bits, f"nothing is behind {text}"
        if kind == "loose":
            assert int(self.client.hget(f"{self.keys.study(promise.study)}:loose", name)) == len(bits)
        node, chunk, *past = (int(word) for word in name.split(":"))
        return node, [chunk * CHUNK + i for i in bits], *past

    def _check_bits(self, promise: Promise, places: list) -> None:
        for node, row in enumerate(places):
            facts = self.client.hgetall(f"{self.keys.study(promise.study)}:node:{node}")
            for kind in ("done", "bad"):
                want = [
                    i
                    for i, place in enumerate(row)
                    if place == SKIPPED or (isinstance(place, End) and (kind == "done" or place.is_blocking))
                ]
                for chunk in range((len(row) - 1) // CHUNK + 1):
                    base = chunk * CHUNK
                    inside = [i - base for i in want if base <= i < base + CHUNK]
                    assert int(facts.get(f"{kind}:{chunk}".encode(), 0)) == len(inside)
                    raw = self.client.get(f"{self.keys.study(promise.study)}:{kind}:{node}:{chunk}") or b""
                    if len(inside) == min(CHUNK, len(row) - base):
                        assert raw == b""
                    elif raw == b"":
                        # None, or it was full before samples were added.
                        assert inside == list(range(len(inside)))
                    else:
                        bits = "".join(f"{byte:08b}" for byte in raw)
                        assert [i for i, bit in enumerate(bits) if bit == "1"] == inside

    def _check_queues(self, promise: Promise) -> None:
        """What is kept for a study on a queue is the sum over its steps' nodes there."""
        sums: dict[str, dict[str, int]] = {queue: {} for queue in QUEUES}
        for step in promise.plan.steps:
            counts = self._counts(promise.study, step.index)
            queue = promise.plan.nodes[step.first_node].queue
            for state in ("ready", "running", "retrying", "dead"):
                sums[queue][state] = sums[queue].get(state, 0) + counts[state]
        for queue, want in sums.items():
            raw = self.client.hgetall(self.keys.study_queue(promise.study, queue))
            assert {state: int(raw.get(state.encode(), 0)) for state in want} == want

    def _check_namespace(self) -> None:
        single = {"studies", "claims", "turn", "swept", "events", "deaths", "clock", "bell:q", "bell:r", "tend"}
        allowed = {self.keys.named(name).encode() for name in single}
        keys = {key for key in self.client.keys(f"{self.keys.root}*") if b"}:study:" not in key}
        assert keys <= allowed, keys - allowed


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
