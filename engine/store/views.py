"""Read-only views: what `status`, `inspect`, `wait` and a worker that looks for its end want to know. Never a write."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mrun.engine.errors import MrunError, NotFoundError, SealError
from mrun.engine.plan.places import JOURNAL_DIR
from mrun.engine.store.connect import translate_errors, url_of
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store

#: States of a study in which something of it may still run.
UNFINISHED = ("running", "held", "stopping")
#: As the server keeps them.
_STATES = ("running", "stopping", "finished", "failed", "cancelled")
#: As the moves say it, in `prelude/account.lua`.
_DAMAGED = "the server lost a part of its plan or of its tasks; `mrun restart` with its workspace goes on with it"
#: What `last` and `all` stand for is decided here; no study id holds these letters together.
LAST, ALL = "last", "all"


#: How a move speaks of a node, for it knows no names.
_NODE = re.compile(r"of node (\d+)")
#: Node and sample, as the reasons of failures are kept.
_REASON_KEY = re.compile(rb"(\d{1,15}):(\d{1,15})")
#: Larger numbers, and more classes of a study, were put there by somebody: the second would be asked for one by one.
_WHOLE_MOST, _CLASSES_MOST = 2**53, 10_000


class StepFacts(msgspec.Struct, frozen=True, array_like=True):
    """What is told of a step when its study is queued."""

    name: str
    nodes: int
    samples: int
    queues: tuple[str, ...]


class StepStatus(msgspec.Struct, frozen=True):
    """Samples of a step by state; they add up to `samples`. Times in seconds over samples that ended."""

    name: str
    queues: tuple[str, ...]
    nodes: int
    samples: int
    waiting: int
    ready: int
    running: int
    retrying: int
    finished: int
    failed: int
    dead: int
    skipped: int
    cancelled: int
    mean_s: float | None

    @property
    def settled(self) -> int:
        """Samples that have come to their end."""
        return self.finished + self.failed + self.dead + self.skipped + self.cancelled


class FailedSample(msgspec.Struct, frozen=True):
    """A sample that failed, and why."""

    step: str
    node: int
    sample: int
    reason: str


class StudyStatus(msgspec.Struct, frozen=True):
    """A study as the server knows it. Instants in seconds since the epoch."""

    study: str
    name: str
    state: str
    priority: int
    workspace: str
    root: str
    queued_at: float
    ended_at: float | None
    why: str
    steps: tuple[StepStatus, ...]

    @property
    def is_ended(self) -> bool:
        """Nothing of it runs any more, or will."""
        return self.state not in UNFINISHED

    @property
    def failures(self) -> int:
        """Samples that did not finish, of a study that has ended; failed ones so far, of one that has not."""
        return sum(step.failed + step.dead + step.skipped + step.cancelled for step in self.steps)

    @property
    def failed(self) -> int:
        """Samples that failed by themselves, or took down too many workers."""
        return sum(step.failed + step.dead for step in self.steps)


class QueueStatus(msgspec.Struct, frozen=True):
    """A study's samples on a queue, and the streams that hold them.

    `oldest_pending_s`: since the oldest pending entry was delivered.
    """

    queue: str
    study: str
    name: str
    state: str
    ready: int
    running: int
    retrying: int
    dead: int
    entries: int
    pending: int
    oldest_pending_s: float | None
    consumers: int
    workers: int


class WorkerStatus(msgspec.Struct, frozen=True):
    """A worker that has a lease."""

    worker: str
    host: str
    pid: int
    queues: tuple[str, ...]
    slots: int
    claims: int
    is_draining: bool
    lease_left_s: float
    lease_s: float
    #: What its spec calls it; empty: nothing.
    name: str = ""
    #: As `--resources` is written; and whether its CPUs were told, or only found.
    resources: str = "cpus=1"
    has_told_cpus: bool = False


class Inspection(msgspec.Struct, frozen=True):
    """What is in the queues, and who works on it."""

    queues: tuple[QueueStatus, ...]
    workers: tuple[WorkerStatus, ...]


class Views:
    """Reads of one namespace."""

    def __init__(self, store: Store, seal: Seal) -> None:
        self._store, self._seal, self._keys = store, seal, store.keys

    async def find(self, selector: str) -> list[str]:
        """Ids of the studies that a selector names: an id, a unique beginning of one, a workspace, `last` or `all`.

        Raises:
            NotFoundError: there is none, or a beginning fits several.
        """
        studies = [raw.decode() for raw in await self._store.call("ZRANGE", self._keys.named("studies"), 0, -1)]
        if selector == ALL:
            return studies
        if selector == LAST:
            if not studies:
                raise NotFoundError("The server knows no study.", hint="`mrun queue SPEC` queues one.")
            return studies[-1:]
        known = [s for s in studies if s == selector] or [s for s in studies if s.startswith(selector)]
        if os.sep in selector or selector in (".", "..") or (not known and os.path.isdir(selector)):
            wanted = os.path.realpath(selector)
            facts = await self._facts(studies, "workspace")
            found = [s for s, (path,) in zip(studies, facts, strict=True) if path and os.path.realpath(path) == wanted]
        else:
            found = known
        if len(found) == 1:
            return found
        if found:
            raise NotFoundError(f"'{selector}' is the beginning of {len(found)} studies: {', '.join(found[:5])}.")
        hint = "`mrun status` lists what it knows."
        if Path(selector, JOURNAL_DIR).is_dir():
            hint = f"It is the workspace of one: `mrun restart {shlex.quote(selector)}` brings it back."
        raise NotFoundError(f"The server knows no study '{selector}'.", hint=hint)

    async def status(self, study: str) -> StudyStatus:
        """One study.

        Raises:
            NotFoundError: the server does not know it, or not any more.
        """
        raw = _texts(await self._store.look("HGETALL", self._keys.study(study)))
        if raw.get("state") not in _STATES:
            raw = await self._damaged(study, raw)
        facts = _step_facts(raw.get("steps", "[]"))
        state = raw["state"]
        state = "held" if state == "running" and raw.get("is_held") == "1" else state
        is_ended = state not in UNFINISHED
        calls = [("HGETALL", self._keys.step(study, index)) for index in range(len(facts))]
        counts = [_texts(reply) for reply in await self._pipeline(calls)]
        return StudyStatus(
            study=study,
            name=raw.get("name", "?"),
            state=state,
            priority=whole(raw.get("priority", 0)),
            workspace=raw.get("workspace", "?"),
            root=raw.get("root", study),
            queued_at=whole(raw.get("queued_at_ms")) / 1000,
            ended_at=whole(raw["ended_at_ms"]) / 1000 if "ended_at_ms" in raw else None,
            why=_NODE.sub(lambda found: f"of step '{_step_name(facts, int(found[1]))}'", raw.get("why", "")),
            steps=tuple(_step_status(fact, count, is_ended) for fact, count in zip(facts, counts, strict=True)),
        )

    async def _damaged(self, study: str, raw: dict[str, str]) -> dict[str, str]:
        """The facts of a study whose hash somebody deleted, or wrote nonsense into; workers have not noticed yet."""
        queued_at_ms = await self._store.call("ZSCORE", self._keys.named("studies"), study)
        # The plan goes before the hash. Without it, the study had ended long ago.
        if queued_at_ms is None or not await self._store.call("EXISTS", self._keys.plan(study)):
            raise NotFoundError(f"The server knows no study '{study}'.", hint="`mrun status` lists what it knows.")
        told = {"queued_at_ms": str(int(float(queued_at_ms))), "name": "?", "workspace": "?"}
        return told | raw | {"state": "failed", "why": _DAMAGED}

    async def studies(self) -> list[StudyStatus]:
        """All studies, in the order they were queued."""
        found = []
        for study in await self.find(ALL):
            try:
                found.append(await self.status(study))
            except NotFoundError:
                continue  # its counters expired; the next commit drops it from the list
        return found

    async def family(self, *root_studies: str) -> list[str]:
        """The studies, and those that their steps queued, and theirs. One look, however many they are."""
        studies = await self.find(ALL)
        roots, wanted = await self._facts(studies, "root"), set(root_studies)
        return [study for study, (root,) in zip(studies, roots, strict=True) if root in wanted]

    async def queues_of(self, studies: Sequence[str]) -> set[str]:
        """The queues of all of these studies' steps."""
        facts = await self._facts(studies, "queues")
        return {queue for (names,) in facts for queue in (names or "").split(",") if queue}

    async def failed_samples(self, study: str, most: int) -> list[FailedSample]:
        """Some of the samples that failed, with their reasons; unordered beyond `most`."""
        raw = await self._store.look("HGETALL", self._keys.reasons(study)) or {}
        pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
        found = ((_REASON_KEY.fullmatch(key), text) for key, text in pairs)
        places = sorted(((int(key[1]), int(key[2])), text) for key, text in found if key)[:most]
        facts = await self._store.look("HGET", self._keys.study(study), "steps")
        steps = _step_facts(facts) if facts else ()
        return [
            FailedSample(_step_name(steps, node), node, sample, self._reason(text, study, node, sample))
            for (node, sample), text in places
        ]

    async def has_unfinished(self, queues: Collection[str], root_study: str, but: Collection[str]) -> bool:
        """Is there a study, other than `but`, that has or may yet have samples on one of these queues?"""
        studies = await self.find(ALL)
        for study, (state, names, root) in zip(
            studies, await self._facts(studies, "state", "queues", "root"), strict=True
        ):
            if study in but or state not in UNFINISHED or (root_study and root != root_study):
                continue
            if set((names or "").split(",")) & set(queues):
                return True
        return False

    async def inspect(self) -> Inspection:
        """Queues and workers. Cost: O(studies × queues + workers)."""
        workers = await self.workers()
        listed = []
        for status in await self.studies():
            if status.is_ended:
                continue
            names = sorted({queue for step in status.steps for queue in step.queues})
            for queue in names:
                row = await self._queue(status, queue, workers)
                listed.append(row)
        return Inspection(tuple(listed), tuple(workers))

    async def worker_names(self) -> list[str]:
        """All workers whose lease has not ended."""
        return [worker.worker for worker in await self.workers()]

    async def _queue(self, status: StudyStatus, queue: str, workers: Sequence[WorkerStatus]) -> QueueStatus:
        study = status.study
        counts = _texts(await self._store.look("HGETALL", self._keys.study_queue(study, queue)))
        classes = whole(await self._store.look("HGET", self._keys.study(study), "class_count"), 1)
        classes = min(classes, _CLASSES_MOST)
        entries = pending = consumers = 0
        oldest_ms: float | None = None
        for number in range(classes):
            stream = self._keys.stream(queue, study, number)
            client = self._store.client
            try:
                with translate_errors(url_of(client)):
                    entries += int(await client.xlen(stream))
                    pending += int((await client.xpending(stream, "workers"))["pending"])
                    for detail in await client.xpending_range(stream, "workers", "-", "+", 1):
                        oldest_ms = max(oldest_ms or 0.0, float(detail["time_since_delivered"]))
                    consumers += len(await client.xinfo_consumers(stream, "workers"))
            except MrunError as error:
                # Streams that empty are deleted, also between two of these calls; a group may be lost, or all replaced.
                if isinstance(error, NotFoundError) or str(error.__cause__).startswith("WRONGTYPE"):
                    continue
                raise
        return QueueStatus(
            queue=queue,
            study=study,
            name=status.name,
            state=status.state,
            ready=whole(counts.get("ready", 0)),
            running=whole(counts.get("running", 0)),
            retrying=whole(counts.get("retrying", 0)),
            dead=whole(counts.get("dead", 0)),
            entries=entries,
            pending=pending,
            oldest_pending_s=None if oldest_ms is None else oldest_ms / 1000,
            consumers=consumers,
            workers=sum(queue in worker.queues for worker in workers),
        )

    async def workers(self) -> list[WorkerStatus]:
        """All workers whose lease has not ended."""
        now_ms = await self._store.now_ms()
        ends = await self._store.call("ZRANGE", self._keys.named("workers"), 0, -1, "WITHSCORES")
        found = []
        for name, end_ms in _pairs(ends):
            facts = _texts(await self._store.call("HGETALL", self._keys.worker(name)))
            held = await self._store.call("HKEYS", self._keys.held(name))
            if "queues" not in facts or end_ms < now_ms:
                continue  # dead, and not swept up yet: nobody may be there to sweep
            found.append(
                WorkerStatus(
                    worker=name,
                    host=facts.get("host", ""),
                    pid=whole(facts.get("pid", 0)),
                    queues=tuple(facts["queues"].split(",")),
                    slots=whole(facts.get("slots", 0)),
                    claims=sum(not field.startswith(b"=") for field in held),
                    is_draining=facts.get("is_draining") == "1" or facts.get("request") == "drain",
                    lease_left_s=max(0.0, (end_ms - now_ms) / 1000),
                    lease_s=whole(facts.get("lease_ms", 0)) / 1000,
                    name=facts.get("name", ""),
                    resources=facts.get("resources", "cpus=1"),
                    has_told_cpus=facts.get("has_told_cpus") == "1",
                )
            )
        return found

    async def _facts(self, studies: Sequence[str], *fields: str) -> list[tuple[str | None, ...]]:
        replies = await self._pipeline([("HMGET", self._keys.study(study), *fields) for study in studies])
        return [
            tuple(None if value is None else value.decode(errors="replace") for value in reply or (None,) * len(fields))
            for reply in replies
        ]

    async def _pipeline(self, calls: Sequence[tuple[str | int, ...]]) -> list[Any]:
        return [await self._store.look(*words) for words in calls]

    def _reason(self, text: bytes, study: str, node: int, sample: int) -> str:
        """What a worker sealed; or, in the clear, what a move noted by itself."""
        try:
            return self._seal.open_text(text.decode(errors="replace"), study, f"reason:{node}:{sample}")
        except SealError:
            return "(sealed under another key)"


def whole(value: str | bytes | int | None, absent: int = 0) -> int:
    """A number that the server tells; what somebody damaged there reads as absent, as the moves read it."""
    try:
        number = absent if value is None else int(value)
    except ValueError:
        return absent
    return number if abs(number) < _WHOLE_MOST else absent


def _step_facts(raw: str | bytes) -> tuple[StepFacts, ...]:
    try:
        return msgspec.json.decode(raw, type=tuple[StepFacts, ...])
    except ValueError:
        return ()


def _step_status(fact: StepFacts, counts: dict[str, str], is_ended: bool) -> StepStatus:
    total = fact.nodes * fact.samples
    known = {
        state: whole(counts.get(state, 0))
        for state in ("ready", "running", "retrying", "finished", "failed", "dead", "skipped", "cancelled")
    }
    if is_ended:
        # What a stopped study never ran is counted nowhere: nothing loops over it. It was cancelled with its study.
        known |= {"ready": 0, "running": 0, "retrying": 0}
        known["cancelled"] += total - sum(known.values())
    timed = whole(counts.get("timed", 0))
    return StepStatus(
        name=fact.name,
        queues=fact.queues,
        nodes=fact.nodes,
        samples=total,
        waiting=total - sum(known.values()),
        mean_s=whole(counts.get("elapsed_ms", 0)) / timed / 1000 if timed else None,
        **known,
    )


def _step_name(steps: Sequence[StepFacts], node: int) -> str:
    first = 0
    for step in steps:
        if node < first + step.nodes:
            return step.name
        first += step.nodes
    return "?"


def _pairs(reply: Any) -> list[tuple[str, float]]:
    """ZRANGE WITHSCORES, flat (RESP2) or in pairs."""
    if reply and isinstance(reply[0], (list, tuple)):
        return [(name.decode(), float(score)) for name, score in reply]
    return [(name.decode(), float(score)) for name, score in zip(reply[::2], reply[1::2], strict=True)]


def _texts(reply: Any) -> dict[str, str]:
    """HGETALL, as a dict or flat; nothing of what is no hash."""
    reply = reply or {}
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in pairs if not _is_binary(key)}


def _is_binary(key: bytes) -> bool:
    return key.endswith(b"_answer")
