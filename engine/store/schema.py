"""What the server holds: names of keys, rows packed in msgpack, limits. `lua/schema.lua` is generated from this module.

`python -m mrun.engine.store.generate` writes that file, and a test compares the two. So a key, a field of a row and a
limit are spelled once. docs/redis-keys.md tells what each key is for.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

#: Of the keys of a namespace. A client of another layout changes nothing and says what to type.
LAYOUT = 2

#: Bits of an instance are kept in chunks of so many samples; a full chunk is only its count.
CHUNK = 1 << 20
#: What one move may do: an item is a child visited, a range put, or an instance's keys deleted.
ITEMS = 200
#: A claim aims at this much work, and is never longer than so many samples.
BITE_MS, BITE_MOST = 1000, 10_000
#: A `chunk` that the user chose may last so long.
CHUNK_MS = 60_000
#: How long a bite lasts while lost samples of the instance wait for their turn.
LOST_BITE_MS = 50
#: Claims, entries read and streams looked at in one call.
FREE_MOST, READS_MOST, LOOK_MOST = 64, 128, 1024
#: Classes that a worker can't run, in one answer.
UNFIT_MOST = 16
#: Ready ranges of an instance and of a stream, and retries of a study, that are kept one by one. Beyond both of the
#: first two, or the third, samples are kept as bits: a million scattered samples cost what a hundred do.
INSTANCE_RANGES_MOST, STREAM_RANGES_MOST, LATER_MOST = 16, 1024, 1000
#: So many samples share a bitmap of scattered ones.
SCATTERED_CHUNK = 8192
#: Retries that wait as bits are due later than they must by an eighth of their delay, and at least by this.
LATE_MS = 250
#: The reasons of so many failed samples are kept for each study.
REASONS_MOST = 1000
#: Counters of a study that has ended are kept for seven days.
KEEP_S = 604_800
#: The last token of a worker that was believed dead is kept for an hour.
TOKEN_KEPT_S = 3600
#: Studies that one sweep looks at, and the pause between two looks whether a study's claims are still there.
STUDIES_MOST, CLAIMS_LOOK_MS = 16, 600_000
#: Larger numbers were put there by somebody else.
WHOLE_MOST = 1 << 53

Whole = Annotated[int, msgspec.Meta(ge=0, le=WHOLE_MOST)]
Signed = Annotated[int, msgspec.Meta(ge=-1, le=WHOLE_MOST)]


class Keys(msgspec.Struct, frozen=True):
    """Keys of one namespace. All share its hash tag. A test calls each with every argument, as the generator does."""

    namespace: str

    @property
    def root(self) -> str:
        """The prefix of all others, with the number of the layout; KEYS[1] of every move."""
        return f"{{{self.namespace}}}:{LAYOUT}:"

    @property
    def clock(self) -> str:
        """Hash: what the clock was set back by, when somebody swept, who sweeps, the last claim and turn."""
        return f"{self.root}clock"

    @property
    def mark(self) -> str:
        """String: nothing; written to be waited for."""
        return f"{self.root}mark"

    @property
    def studies(self) -> str:
        """Sorted set: study → when it was queued, ms."""
        return f"{self.root}studies"

    @property
    def workers(self) -> str:
        """Sorted set: worker → when its lease ends, ms."""
        return f"{self.root}workers"

    @property
    def leases(self) -> str:
        """Sorted set: worker → the length of its lease, ms."""
        return f"{self.root}leases"

    @property
    def deaths(self) -> str:
        """Sorted set: worker → when it was found dead, ms."""
        return f"{self.root}deaths"

    @property
    def slots(self) -> str:
        """Hash: queue → slots of all workers that listen to it."""
        return f"{self.root}slots"

    @property
    def later(self) -> str:
        """Sorted set: study → when its next retry is due, ms."""
        return f"{self.root}later"

    @property
    def todo(self) -> str:
        """Sorted set: study with unfinished work → since when, ms."""
        return f"{self.root}todo"

    @property
    def events(self) -> str:
        """Stream: studies that ended."""
        return f"{self.root}events"

    @property
    def allocs(self) -> str:
        """Sorted set: allocation → when it was added, ms."""
        return f"{self.root}allocs"

    def alloc(self, name: str) -> str:
        """Hash: an allocation on demand: its terms and its state, sealed; its keeper."""
        return f"{self.root}alloc:{name}"

    def queue(self, queue: str) -> str:
        """Sorted set: `<study>:<class>` with something to claim → priority and turn."""
        return f"{self.root}queue:{queue}"

    def stream(self, queue: str, study: str, resource_class: int) -> str:
        """Stream: an entry for each range that is ready."""
        return f"{self.root}queue:{queue}:{study}:{resource_class}"

    def bell(self, queue: str) -> str:
        """List of at most one token: there is new work on the queue."""
        return f"{self.root}bell:{queue}"

    def worker(self, worker: str) -> str:
        """Hash: a worker's facts, its last requests and their answers."""
        return f"{self.root}worker:{worker}"

    def worker_bell(self, worker: str) -> str:
        """List of at most one token: the worker is asked for something."""
        return f"{self.root}worker:{worker}:bell"

    def worker_claims(self, worker: str) -> str:
        """Hash: `<number>:<study>` → the claim, as `ClaimRow`."""
        return f"{self.root}worker:{worker}:claims"

    def study(self, study: str) -> str:
        """Hash: state, facts, counts of samples."""
        return f"{self.root}study:{study}"

    def plan(self, study: str) -> str:
        """Hash: the stored plan."""
        return f"{self.root}study:{study}:plan"

    def past(self, study: str) -> str:
        """Hash: what an earlier run brought to its end."""
        return f"{self.root}study:{study}:past"

    def growth(self, study: str, name: str) -> str:
        """Hash: fields of the plan that change when samples are added, before they do."""
        return f"{self.root}study:{study}:grown:{name}"

    def instance(self, study: str, instance: int) -> str:
        """Hash: progress of an instance."""
        return f"{self.root}study:{study}:instance:{instance}"

    def bits(self, study: str, kind: str, instance: int, chunk: int) -> str:
        """String: a bitmap of one chunk of an instance."""
        return f"{self.root}study:{study}:{kind}:{instance}:{chunk}"

    def ranges(self, study: str, instance: int) -> str:
        """Hash: ranges that nobody has claimed, by their two ends."""
        return f"{self.root}study:{study}:ranges:{instance}"

    def scattered(self, study: str) -> str:
        """Hash: name of scattered samples → how many."""
        return f"{self.root}study:{study}:scattered"

    def scattered_bits(self, study: str, name: str) -> str:
        """String: their bitmap."""
        return f"{self.root}study:{study}:scattered:{name}"

    def retries(self, study: str) -> str:
        """Sorted set: task → when it is due, ms."""
        return f"{self.root}study:{study}:retries"

    def retry_bits(self, study: str, member: str) -> str:
        """String: bitmap of the samples behind a member of `retries` that stands for many."""
        return f"{self.root}study:{study}:retries:{member}"

    def study_todo(self, study: str) -> str:
        """List: work that one move could not finish, msgpack."""
        return f"{self.root}study:{study}:todo"

    def reasons(self, study: str) -> str:
        """Hash: `<instance>:<sample>` → why it failed, sealed."""
        return f"{self.root}study:{study}:reasons"

    def followers(self, study: str) -> str:
        """Set: studies that wait for the end of this one."""
        return f"{self.root}study:{study}:followers"


class StepRow(msgspec.Struct, frozen=True, array_like=True):
    """A step, as the moves know it: field `step:<i>` of the plan. `size` counts the samples of one instance."""

    size: Whole
    resource_class: Whole
    max_losses: Whole
    #: 0: chosen by the pace.
    chunk: Whole
    delay_ms: Whole
    #: What a dead sample does: 1 blocking, 2 stops the study.
    dead_flags: Whole
    #: -1: no limit; text: percents.
    max_fails: Signed | str
    first_instance: Whole
    instances: Whole
    #: Steps that wait for all of it, and how many steps it waits for as wholes.
    after: tuple[int, ...]
    barriers: Whole
    #: 1 if an earlier run brought samples to their end; 1 if samples were added.
    has_past: Whole
    has_grown: Whole


#: The fields of a step's row that one of its instances may have for itself.
TERMS = ("resource_class", "max_losses", "chunk", "delay_ms", "dead_flags", "max_fails")


class InstanceRow(msgspec.Struct, frozen=True, array_like=True):
    """A step with one combination of parameters: field `instance:<n>` of the plan."""

    step: Whole
    queue: str
    #: Its place among the step's queues: counts of the first have no suffix.
    queue_number: Whole
    #: Instances that must be settled as wholes; those that go sample by sample with it; how many fields name children.
    whole_parents: Whole
    each_parents: tuple[int, ...]
    each_parts: Whole
    all_parts: Whole
    #: The values of `TERMS`, where they differ from its step's. Else empty.
    terms: tuple[int | str, ...]


class ShapeRow(msgspec.Struct, frozen=True, array_like=True):
    """How much there is: field `shape` of the plan. `streams` counts the fields `streams:<k>`."""

    instances: Whole
    steps: Whole


class ClaimRow(msgspec.Struct, frozen=True, array_like=True):
    """Samples [lo, hi) that a worker owns."""

    queue: str
    resource_class: Whole
    instance: Whole
    step: Whole
    lo: Whole
    hi: Whole
    attempt: Whole
    losses: Whole
    resume: Whole


#: The rows that moves read from the server: what does not fit ends its study.
ROWS = (StepRow, InstanceRow, ShapeRow, ClaimRow)
#: And those that moves write.
WRITTEN_ROWS = (ClaimRow,)
