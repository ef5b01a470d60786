"""What the server says of every study, compared with what the model says: counters, bits, streams, and what is left."""

from __future__ import annotations

import itertools
from typing import Any

from mrun.engine.store.views import StepFacts, on_queue
from tests.store.account import Account
from tests.store.promise import OPEN, SKIPPED, End, Past, Promise
from tests.store.small_moves import CHUNK, QUEUES


class Checks(Account):
    """Each check is of one study, in one state, while no piece of work is left over."""

    def _check_running(self, promise: Promise) -> None:
        study = promise.study
        assert self.client.hget(self.keys.study(study), "state") == b"running", self._why(study)
        later = self.client.zrange(self.keys.retries(study), 0, -1)
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
        assert self.client.hget(self.keys.study(study), "state") == outcome.encode(), self._why(study)
        for step in promise.plan.steps:
            counts, model = self._counts(study, step.index), promise.counts(step.index)
            assert counts["running"] == 0
            ended = sum(1 for n, _ in promise.ends if promise.plan.nodes[n].step == step.index)
            assert sum(counts[state] for state in ("finished", "failed", "dead", "cancelled")) == ended
            if not promise.is_stopped:
                assert counts["skipped"] == model[SKIPPED]
                assert (counts["ready"], counts["retrying"]) == (0, 0)
        keys = self.client.keys(f"{self.keys.root}*{study}*")
        assert set(keys) <= {self.keys.study(study).encode(), self.keys.reasons(study).encode()}
        assert all(self.client.ttl(key) > 0 for key in keys)

    def _check_purged(self, study: str) -> None:
        assert self.client.keys(f"{self.keys.root}*{study}*") == []

    def _undelivered(self, promise: Promise) -> list[str]:
        texts = []
        for queue, number in itertools.product(QUEUES, range(3)):
            stream = self.keys.stream(queue, promise.study, number)
            if not self.client.exists(stream):
                continue
            texts += [fields[b"t"].decode() for _, fields in self.client.xrange(stream)]
            is_named = self.client.zscore(self.keys.queue(queue), f"{promise.study}:{number}") is not None
            assert is_named, "nobody will find it"
        return texts

    def _ranges(self, promise: Promise, texts: list[str]) -> set[tuple[int, int]]:
        found: set[tuple[int, int]] = set()
        for text in texts:
            node, indices, attempt, losses, resume = self._task(promise, text)
            samples = {(node, i) for i in indices}
            assert not samples & found, "put twice"
            assert {promise.past(*sample) for sample in samples} == {Past(attempt, losses, resume)}
            found |= samples
        return found

    def _task(self, promise: Promise, text: str) -> tuple[Any, ...]:
        if not text.startswith("*"):
            node, _, lo, hi, *past = (int(word) for word in text.split())
            return node, list(range(lo, hi)), *past
        # Samples as bits: of an entry, or of a retry that waits
        study, name = promise.study, text[1:].rpartition(" ")[2]
        is_retry = " " in text
        raw = self.client.get(self.keys.retry_bits(study, text) if is_retry else self.keys.scattered_bits(study, name))
        bits = [i for i, bit in enumerate("".join(f"{byte:08b}" for byte in raw)) if bit == "1"]
        assert bits, f"nothing is behind {text}"
        if not is_retry:
            assert int(self.client.hget(self.keys.scattered(study), name)) == len(bits)
        node, _, chunk, *past = (int(word) for word in name.split(":"))
        return node, [chunk * CHUNK + i for i in bits], *past

    def _check_bits(self, promise: Promise, places: list) -> None:
        for node, row in enumerate(places):
            facts = self.client.hgetall(self.keys.instance(promise.study, node))
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
                    raw = self.client.get(self.keys.bits(promise.study, kind, node, chunk)) or b""
                    if len(inside) == min(CHUNK, len(row) - base):
                        assert raw == b""
                    elif raw == b"":
                        # None, or it was full before samples were added.
                        assert inside == list(range(len(inside)))
                    else:
                        bits = "".join(f"{byte:08b}" for byte in raw)
                        assert [i for i, bit in enumerate(bits) if bit == "1"] == inside

    def _check_queues(self, promise: Promise) -> None:
        """What a view says of a study's samples on a queue is the sum over its steps' instances there."""
        raw = {
            key.decode(): value.decode() for key, value in self.client.hgetall(self.keys.study(promise.study)).items()
        }
        queues = [promise.plan.nodes[step.first_node].queue for step in promise.plan.steps]
        steps = [StepFacts("s", 1, 1, (queue,)) for queue in queues]
        for queue, state in itertools.product(QUEUES, ("ready", "running", "retrying", "dead")):
            own = [step.index for step in promise.plan.steps if queues[step.index] == queue]
            want = sum(self._counts(promise.study, index)[state] for index in own)
            assert on_queue(raw, steps, queue, state) == want

    def _check_namespace(self) -> None:
        single = {"studies", "events", "deaths", "clock", "time"}
        single |= {f"bell:{queue}" for queue in QUEUES}
        allowed = {f"{self.keys.root}{name}".encode() for name in single}
        keys = {key for key in self.client.keys(f"{self.keys.root}*") if b":study:" not in key}
        # The last token of a worker that was believed dead.
        allowed |= {key for key in keys if b":worker:" in key and self.client.ttl(key) > 0}
        assert keys <= allowed, keys - allowed
