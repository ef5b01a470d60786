"""The CPUs and GPUs of one machine, given out by number. Each belongs to one claim at a time, whose scripts find the
numbers in variables.

A script is pinned by changing the engine's own affinity for the moment in which it is started: a child begins with its
parent's. Refused: `taskset` before the script, which costs an exec, more than a millisecond; changing the child's
affinity afterwards, which costs half of that, and comes too late for what it has started by then.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from mrun.engine.resources import CPUS, GPUS, Amounts, Inventory
from mrun.launchers.base import Allocation, visible_gpus

#: What programs read to know their GPUs, NVIDIA's and AMD's.
_GPU_VARIABLES = (b"CUDA_VISIBLE_DEVICES", b"ROCR_VISIBLE_DEVICES")
#: A directory for each of NVIDIA's GPUs; and for each of AMD's a node that is a processor of no CPU.
_NVIDIA_GPUS, _AMD_NODES = "/proc/driver/nvidia/gpus/*", "/sys/class/kfd/kfd/topology/nodes/*/gpu_id"

_Device = TypeVar("_Device", int, str)


class Grant(msgspec.Struct, frozen=True):
    """What the scripts of one claim may use."""

    cpus: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()
    #: The scripts are bound to the CPUs.
    is_pinned: bool = False
    #: What their environment says of it.
    variables: Mapping[bytes, bytes] = {}


NO_GRANT = Grant()


class Devices:
    """Gives out the CPUs and GPUs of a worker. Those that were only found are counted, and CPUs not given by number:
    another worker on the machine will have found the same."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        # Where there are fewer, or others, the numbers are only words.
        self._can_pin = bool(inventory.cpu_places) and set(inventory.cpu_places) <= os.sched_getaffinity(0)

    def grant(self, takes: Amounts, others: Iterable[Grant]) -> Grant:
        """As many as a claim takes, of those that no other has."""
        has = self._inventory
        if not has.cpu_places and not has.has_told_gpus and not takes.get(GPUS):
            return NO_GRANT
        others = tuple(others)
        cpus = _free(has.cpu_places, (cpu for one in others for cpu in one.cpus))[: takes.get(CPUS, 0)]
        gpus = _free(has.gpu_places, (gpu for one in others for gpu in one.gpus))[: takes.get(GPUS, 0)]
        variables: dict[bytes, bytes] = {}
        if cpus:
            variables[b"MRUN_CPUS"] = ",".join(map(str, cpus)).encode()
        if gpus or has.has_told_gpus:
            variables |= dict.fromkeys((b"MRUN_GPUS", *_GPU_VARIABLES), ",".join(gpus).encode())
        return Grant(cpus, gpus, self._can_pin and bool(cpus), variables)


@contextlib.contextmanager
def pinned(cpus: tuple[int, ...]) -> Iterator[None]:
    """What is started meanwhile is bound to these CPUs; to none if there are none. Nothing may be awaited meanwhile."""
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def find_inventory(environment: Mapping[str, str], allocation: Allocation | None) -> Inventory:
    """What this process finds: as its scheduler tells, else as the kernel does.

    The CPUs of one worker in an allocation are those of all its nodes, for `$(LAUNCHER)` reaches them. Slots are not:
    scripts without it run on this node.
    """
    cores = (allocation.cores if allocation else 0) or len(os.sched_getaffinity(0))
    nodes = len(allocation.nodes) if allocation else 1
    gpus = find_gpus(environment)
    return Inventory(slots=cores, cpus=cores * max(1, nodes), gpus=len(gpus), gpu_places=gpus)


def find_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs of this machine that this process may use: as the environment tells, else as many as there are."""
    if any(name.decode() in environment for name in _GPU_VARIABLES):
        return visible_gpus(environment)
    count = len(glob.glob(_NVIDIA_GPUS)) or sum(map(_is_gpu, glob.glob(_AMD_NODES)))
    return tuple(map(str, range(count)))


def _free(devices: tuple[_Device, ...], taken: Iterable[_Device]) -> tuple[_Device, ...]:
    known = set(taken)
    return tuple(device for device in devices if device not in known)


def _is_gpu(path: str) -> bool:
    try:
        with open(path) as file:
            return file.read().strip() not in ("", "0")
    except OSError:
        return False
