"""Resources by their names: what a sample takes of a worker, and what a worker has.

An amount is a whole number of `cpus`, `gpus`, `jobs`, `slots`, or of something that users gave a name, such as
`licenses/foo`. All are counted for each worker.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence

import msgspec

CPUS, GPUS, JOBS, SLOTS = "cpus", "gpus", "jobs", "slots"
#: Names that mean something by themselves: no user's resource can have them.
TAKEN_NAMES = (CPUS, GPUS, JOBS, SLOTS, "exclusive")
#: Scripts that a worker may have in a scheduler's queue as jobs, if nothing else is said.
JOBS_DEFAULT = 100

_NAME = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)
_AMOUNT = re.compile(r"(?P<first>\d{1,6})(?:-(?P<last>\d{1,6}))?")

Amounts = Mapping[str, int]


class Demand(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one sample takes of a worker while it runs."""

    cpus: int = 1
    gpus: int = 0
    #: Of the users' own resources.
    named: tuple[tuple[str, int], ...] = ()
    #: All CPUs and GPUs that the worker has.
    is_exclusive: bool = False
    #: It is a scheduler's job: it takes one of `jobs`, and nothing else.
    is_job: bool = False

    @property
    def amounts(self) -> dict[str, int]:
        """By name, without what it does not take."""
        if self.is_job:
            return {JOBS: 1}
        return {SLOTS: 1, CPUS: self.cpus, **({GPUS: self.gpus} if self.gpus else {}), **dict(self.named)}

    @property
    def text(self) -> str:
        """As people read it: `cpus=4, gpus=1`."""
        return amounts_text(self.amounts) + (", exclusive" if self.is_exclusive else "")


class Told(msgspec.Struct, frozen=True):
    """What `--resources` says. None, or no entry: nothing is said of it.

    `cpu_places` and `gpu_places` are the numbers that they have on their machine, if these were told.
    """

    cpus: int | None = None
    gpus: int | None = None
    jobs: int | None = None
    cpu_places: tuple[int, ...] = ()
    gpu_places: tuple[int, ...] = ()
    named: tuple[tuple[str, int], ...] = ()

    @property
    def amounts(self) -> dict[str, int]:
        """By name, without what it does not say."""
        every = {CPUS: self.cpus, GPUS: self.gpus, JOBS: self.jobs, **dict(self.named)}
        return {name: amount for name, amount in every.items() if amount}


class Inventory(msgspec.Struct, frozen=True):
    """What a worker has."""

    slots: int
    cpus: int
    gpus: int = 0
    jobs: int = JOBS_DEFAULT
    named: tuple[tuple[str, int], ...] = ()
    #: The user says that these CPUs are the worker's: scripts are told theirs, and what needs more is passed over.
    #: Otherwise they were only found, and what needs more takes all of them.
    has_told_cpus: bool = False
    #: The same of GPUs: scripts that need none see none.
    has_told_gpus: bool = False
    #: The numbers of CPUs, and the names of GPUs, on this machine; () for CPUs that nobody is told of.
    cpu_places: tuple[int, ...] = ()
    gpu_places: tuple[str, ...] = ()

    @property
    def amounts(self) -> dict[str, int]:
        """By name, without what it does not have."""
        every = {SLOTS: self.slots, CPUS: self.cpus, GPUS: self.gpus, JOBS: self.jobs, **dict(self.named)}
        return {name: amount for name, amount in every.items() if amount}

    @property
    def most(self) -> dict[str, int]:
        """What a claim may ask for: CPUs that were only found are always enough."""
        return self.amounts | ({} if self.has_told_cpus else {CPUS: sys.maxsize})

    @property
    def text(self) -> str:
        """As people read it, and as `--resources` is written; without what every worker has."""
        own = {name: amount for name, amount in self.amounts.items() if name not in (SLOTS, JOBS)}
        return amounts_text(own, ",")


def amounts_text(amounts: Amounts, between: str = ", ") -> str:
    """`cpus=4, gpus=1`; a slot goes without saying."""
    return between.join(f"{name}={amount}" for name, amount in amounts.items() if name != SLOTS)


def is_name(text: str) -> bool:
    """Whether a user's resource may be called so. `gpu` would be mistaken for `gpus`."""
    return not {text, f"{text}s"}.intersection(TAKEN_NAMES) and _NAME.fullmatch(text) is not None


def fits(needs: Amounts, free: Amounts) -> bool:
    """Whether there is enough of everything."""
    return all(free.get(name, 0) >= amount for name, amount in needs.items())


def lacking(needs: Amounts, total: Amounts) -> dict[str, int]:
    """What there is too little of: name → how much there is."""
    return {name: total.get(name, 0) for name, amount in needs.items() if total.get(name, 0) < amount}


def read_resources(text: str) -> Told:
    """`cpus=32,gpus=4,licenses/foo=2`; `cpus=8-15` says also which.

    Raises:
        ValueError: with what is wrong with it, as the end of a sentence.
    """
    amounts: dict[str, int] = {}
    places: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        found = _AMOUNT.fullmatch(value)
        if name not in (CPUS, GPUS, JOBS) and not is_name(name):
            meant = f"; did you mean '{name}s'?" if f"{name}s" in TAKEN_NAMES else ""
            raise ValueError(f"'{name}' is no name of a resource{meant}")
        if name in amounts:
            raise ValueError(f"'{name}' stands twice")
        if found is None or (found["last"] and name not in (CPUS, GPUS)):
            raise ValueError(f"'{part.strip()}' does not read NAME=NUMBER")
        amounts[name] = first = int(found["first"])
        if found["last"]:
            places[name] = tuple(range(first, int(found["last"]) + 1))
            amounts[name] = len(places[name])
        if (amounts[name] < 1 and name != GPUS) or places.get(name) == ():
            raise ValueError(f"'{part.strip()}' is no amount")
    named = tuple(sorted((name, amount) for name, amount in amounts.items() if name not in TAKEN_NAMES))
    return Told(
        cpus=amounts.get(CPUS), gpus=amounts.get(GPUS), jobs=amounts.get(JOBS),
        cpu_places=places.get(CPUS, ()), gpu_places=places.get(GPUS, ()), named=named,
    )  # fmt: skip


def take_stock(told: Told, slots: int | None, found: Inventory, our_cpus: Sequence[int]) -> Inventory:
    """What a worker has, by what it was told, and what was found where that is silent.

    Args:
        slots: as the user says; None: as many as CPUs. Without told CPUs it says how many these are, too.
        found: on this machine, or in its allocation.
        our_cpus: the numbers of those that the kernel lets this process use.
    """
    cpus = told.cpus or slots or found.cpus
    cpu_places: tuple[int, ...] = ()
    if told.cpus is not None:
        # More than there are can't be places of this machine: then they are only counted.
        cpu_places = told.cpu_places or tuple(sorted(our_cpus)[:cpus] if cpus <= len(our_cpus) else range(cpus))
    gpus = found.gpus if told.gpus is None else told.gpus
    gpu_places = tuple(map(str, told.gpu_places)) or found.gpu_places[:gpus]
    if len(gpu_places) < gpus:
        gpu_places = tuple(map(str, range(gpus)))
    return Inventory(
        slots=slots or told.cpus or found.slots,
        cpus=cpus,
        gpus=gpus,
        jobs=told.jobs or found.jobs,
        named=told.named,
        has_told_cpus=told.cpus is not None,
        has_told_gpus=told.gpus is not None,
        cpu_places=cpu_places,
        gpu_places=gpu_places,
    )


class ClassDemand(msgspec.Struct, frozen=True, array_like=True):
    """What claims of a class take, as the server holds it for the moves."""

    amounts: dict[str, int]
    is_exclusive: bool


def encode_demands(demands: Sequence[Demand]) -> bytes:
    """`demands` of a study's hash."""
    return msgspec.json.encode([ClassDemand(one.amounts, one.is_exclusive) for one in demands])


def read_demands(raw: bytes | None, class_count: int) -> list[ClassDemand]:
    """The same, for each class. Where nothing is said, a sample takes one CPU."""
    if raw is None:
        return [ClassDemand(Demand().amounts, False)] * class_count
    return msgspec.json.decode(raw, type=list[ClassDemand])
