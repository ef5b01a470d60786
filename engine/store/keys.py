"""The names of all keys, for the readers in Python; the moves derive the same ones in `prelude/keys.lua`."""

from __future__ import annotations

import msgspec


class Keys(msgspec.Struct, frozen=True):
    """Keys of one namespace. All share its hash tag."""

    namespace: str

    @property
    def root(self) -> str:
        """The prefix of all others; KEYS[1] of every move."""
        return f"{{{self.namespace}}}:"

    def named(self, name: str) -> str:
        """One of the namespace's single keys: studies, workers, leases, later, todo, events, …"""
        return self.root + name

    def study(self, study: str) -> str:
        """Hash: state, outcome, name, workspace, steps, counts."""
        return f"{self.root}study:{study}"

    def plan(self, study: str) -> str:
        """Hash: the stored plan."""
        return f"{self.root}study:{study}:plan"

    def step(self, study: str, step: int) -> str:
        """Hash: counts of a step's samples by state, and of their times."""
        return f"{self.root}study:{study}:step:{step}"

    def study_queue(self, study: str, queue: str) -> str:
        """Hash: ready, running, retrying and dead samples of a study on a queue."""
        return f"{self.root}study:{study}:queue:{queue}"

    def reasons(self, study: str) -> str:
        """Hash: node:sample → why it failed, sealed."""
        return f"{self.root}study:{study}:reasons"

    def loose(self, study: str) -> str:
        """Hash: name of loose samples → how many."""
        return f"{self.root}study:{study}:loose"

    def stream(self, queue: str, study: str, resource_class: int) -> str:
        """Stream of tasks, consumer group `workers`."""
        return f"{self.root}queue:{queue}:{study}:{resource_class}"

    def bell(self, queue: str) -> str:
        """List of at most one token: there is new work on the queue."""
        return f"{self.root}bell:{queue}"

    def alloc(self, name: str) -> str:
        """Hash: an allocation on demand: its terms and its state, sealed; who keeps it."""
        return f"{self.root}alloc:{name}"

    def worker(self, worker: str) -> str:
        """Hash: a worker's facts, its last requests and their answers."""
        return f"{self.root}worker:{worker}"

    def worker_bell(self, worker: str) -> str:
        """List of at most one token: the worker is asked for something, whatever it waits for."""
        return f"{self.root}worker:{worker}:bell"

    def held(self, worker: str) -> str:
        """Hash: the claims of a worker."""
        return f"{self.root}worker:{worker}:held"
