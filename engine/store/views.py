"""Read-only views: what `status`, `inspect`, `wait` and a worker that looks for its end want to know. Never a write."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mrun.engine.errors import NotFoundError, SealError
from mrun.engine.language.places import JOURNAL_DIR
from mrun.engine.store.schema import ClaimRow
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store

#: States of a study in which something of it may still run.
UNFINISHED = ("running", "held", "stopping")
#: As the server keeps them.
_STATES = ("running", "stopping", "finished", "failed", "cancelled")
#: Of a study that was damaged, and that no move has come by yet.
_DAMAGED = "the server lost a part of it; `mrun restart` with its workspace goes on with it"
#: What `last` and `all` stand for is decided here; no study id holds these letters together.
LAST, ALL = "last", "all"


#: How a move speaks of an instance, for it knows no names.
_NODE = re.compile(r"of instance (\d+)")
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
        studies = [raw.decode() for raw in await self._store.call("ZRANGE", self._keys.studies, 0, -1)]
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
        raw = texts(await self._store.look("HGETALL", self._keys.study(study)))
        return await self._status(study, raw)

    async def _status(self, study: str, raw: dict[str, str]) -> StudyStatus:
        if raw.get("state") not in _STATES:
            raw = await self._damaged(study, raw)
        facts = step_facts(raw.get("steps", "[]"))
        state = raw["state"]
        state = "held" if state == "running" and raw.get("is_held") == "1" else state
        is_ended = state not in UNFINISHED
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
            steps=tuple(_step_status(index, fact, raw, is_ended) for index, fact in enumerate(facts)),
        )

    async def _damaged(self, study: str, raw: dict[str, str]) -> dict[str, str]:
        """The facts of a study whose hash somebody deleted, or wrote nonsense into; workers have not noticed yet."""
        queued_at_ms = await self._store.call("ZSCORE", self._keys.studies, study)
        # The plan goes before the hash. Without it, the study had ended long ago.
        if queued_at_ms is None or not await self._store.call("EXISTS", self._keys.plan(study)):
            raise NotFoundError(f"The server knows no study '{study}'.", hint="`mrun status` lists what it knows.")
        told = {"queued_at_ms": str(int(float(queued_at_ms))), "name": "?", "workspace": "?"}
        return told | raw | {"state": "failed", "why": _DAMAGED}

    async def studies(self) -> list[StudyStatus]:
        """All studies, in the order they were queued."""
        found = []
        names = await self.find(ALL)
        replies = await self._store.look_at([("HGETALL", self._keys.study(study)) for study in names])
        for study, raw in zip(names, replies, strict=True):
            try:
                found.append(await self._status(study, texts(raw)))
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
        steps = step_facts(facts) if facts else ()
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
        """Queues and workers. Cost: O(studies × queues × classes + claims)."""
        workers = await self.workers()
        names = await self._store.call("ZRANGE", self._keys.workers, 0, -1)
        calls = [("HGETALL", self._keys.worker_claims(name.decode())) for name in names]
        owned = _Owned([_pairs_of(reply) for reply in await self._store.look_at(calls)])
        now_ms = await self._store.now_ms()
        rows = [
            await self._queue(status, queue, workers, owned, now_ms)
            for status in await self.studies()
            if not status.is_ended
            for queue in sorted({queue for step in status.steps for queue in step.queues})
        ]
        return Inspection(tuple(rows), tuple(workers))

    async def worker_names(self) -> list[str]:
        """All workers whose lease has not ended."""
        return [worker.worker for worker in await self.workers()]

    async def _queue(
        self, status: StudyStatus, queue: str, workers: Sequence[WorkerStatus], owned: _Owned, now_ms: int
    ) -> QueueStatus:
        study = status.study
        raw = texts(await self._store.look("HGETALL", self._keys.study(study)))
        classes = min(whole(raw.get("class_count"), 1), _CLASSES_MOST)
        calls = [("XLEN", self._keys.stream(queue, study, number)) for number in range(classes)]
        claims = owned.of(study, queue)
        oldest_ms = min((number for _, number in claims), default=0) / 1000
        return QueueStatus(
            queue=queue,
            study=study,
            name=status.name,
            state=status.state,
            **{state: on_queue(raw, status.steps, queue, state) for state in ("ready", "running", "retrying", "dead")},
            entries=sum(length or 0 for length in await self._store.look_at(calls)),
            pending=len(claims),
            # Claims are numbered by the clock, in microseconds.
            oldest_pending_s=max(0.0, (now_ms - oldest_ms) / 1000) if claims else None,
            consumers=len({worker for worker, _ in claims}),
            workers=sum(queue in worker.queues for worker in workers),
        )

    async def workers(self) -> list[WorkerStatus]:
        """All workers whose lease has not ended."""
        now_ms = await self._store.now_ms()
        ends = await self._store.call("ZRANGE", self._keys.workers, 0, -1, "WITHSCORES")
        found = []
        names = [(name, end_ms) for name, end_ms in _pairs(ends)]
        facts_calls = [("HGETALL", self._keys.worker(name)) for name, _ in names]
        claim_calls = [("HLEN", self._keys.worker_claims(name)) for name, _ in names]
        replies = await self._store.look_at([*facts_calls, *claim_calls])
        told = zip(names, replies[: len(names)], replies[len(names) :], strict=True)
        for (name, end_ms), raw, claims in told:
            facts = texts(raw)
            if "queues" not in facts or end_ms < now_ms:
                continue  # dead, and not swept up yet: nobody may be there to sweep
            found.append(
                WorkerStatus(
                    worker=name,
                    host=facts.get("host", ""),
                    pid=whole(facts.get("pid", 0)),
                    queues=tuple(facts["queues"].split(",")),
                    slots=whole(facts.get("slots", 0)),
                    claims=claims or 0,
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
        replies = await self._store.look_at([("HMGET", self._keys.study(study), *fields) for study in studies])
        return [
            tuple(None if value is None else value.decode(errors="replace") for value in reply or (None,) * len(fields))
            for reply in replies
        ]

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


def step_facts(raw: str | bytes) -> tuple[StepFacts, ...]:
    """`steps` of a study's hash; none of what somebody damaged."""
    try:
        return msgspec.json.decode(raw, type=tuple[StepFacts, ...])
    except ValueError:
        return ()


def on_queue(raw: dict[str, str], steps: Sequence[StepFacts | StepStatus], queue: str, state: str) -> int:
    """Samples of a study on a queue, in one of the states that are counted for each queue of a step."""
    return sum(
        whole(raw.get(_count_name(index, state, step.queues.index(queue))))
        for index, step in enumerate(steps)
        if queue in step.queues
    )


def _count_name(step: int, state: str, queue_number: int) -> str:
    """As the moves name it: those of a step's first queue have no suffix."""
    return f"{step}:{state}:{queue_number}" if queue_number else f"{step}:{state}"


def _step_status(index: int, fact: StepFacts, raw: dict[str, str], is_ended: bool) -> StepStatus:
    total = fact.nodes * fact.samples
    known = {
        state: sum(whole(raw.get(_count_name(index, state, number))) for number in range(max(1, len(fact.queues))))
        for state in ("ready", "running", "retrying", "finished", "failed", "dead", "skipped", "cancelled")
    }
    if is_ended:
        # What a stopped study never ran is counted nowhere: nothing loops over it. It was cancelled with its study.
        known |= {"ready": 0, "running": 0, "retrying": 0}
        known["cancelled"] += total - sum(known.values())
    timed = whole(raw.get(f"{index}:timed"))
    return StepStatus(
        name=fact.name,
        queues=fact.queues,
        nodes=fact.nodes,
        samples=total,
        waiting=total - sum(known.values()),
        mean_s=whole(raw.get(f"{index}:elapsed_ms")) / timed / 1000 if timed else None,
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


def _pairs_of(reply: Any) -> list[tuple[bytes, bytes]]:
    """HGETALL, as a dict or flat; nothing of what is no hash."""
    reply = reply or {}
    return list(reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True))


def texts(reply: Any) -> dict[str, str]:
    """The fields of a hash, but for those that hold answers."""
    return {
        key.decode(errors="replace"): value.decode(errors="replace")
        for key, value in _pairs_of(reply)
        if not _is_binary(key)
    }


class _Owned:
    """The claims of all workers, by study and queue: worker's place among the workers, and the claim's number."""

    def __init__(self, workers: Sequence[list[tuple[bytes, bytes]]]) -> None:
        self._found: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for place, claims in enumerate(workers):
            for name, raw in claims:
                number, _, study = name.decode(errors="replace").partition(":")
                with contextlib.suppress(ValueError, msgspec.DecodeError):
                    queue = msgspec.msgpack.decode(raw, type=ClaimRow).queue
                    self._found.setdefault((study, queue), []).append((place, int(number)))

    def of(self, study: str, queue: str) -> list[tuple[int, int]]:
        """Those of a study on a queue."""
        return self._found.get((study, queue), [])


def _is_binary(key: bytes) -> bool:
    return key.endswith(b"_answer")
