"""`$(LAUNCHER)` and `$(VLAUNCHER)` in a row of a step: what it has, what a use asks for, and the words for it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from mrun.launchers.find import prefix_named
from mrun.launchers.resources import Needs, Resources

#: Keys of a step → fields of Resources.
_FIELDS = {
    "nodes": "nodes",
    "procs": "procs",
    "cores per task": "cores_per_task",
    "gpus per task": "gpus_per_task",
    "gpus": "gpus",
    "exclusive": "is_exclusive",
    "bind": "bind",
    "launch distribution": "distribution",
    "num resource set": "resource_sets",
    "exit_on_error": "exit_on_error",
}
#: Keys for whoever submits a job: no launcher has flags for them.
_FOR_JOBS = ("reservation", "nested", "priority", "qos")
#: Merlin's variables, by the key of the step that they stand for, and what they are where the step says nothing.
_VARIABLES = {
    "nodes": ("MERLIN_NODES", "1"),
    "procs": ("MERLIN_PROCS", "1"),
    "cores per task": ("MERLIN_CORES", "1"),
    "gpus per task": ("MERLIN_GPUS", "0"),
}
_BRACKET = re.compile(r"(\d+)\s*([np]?)")


class Launching(msgspec.Struct, frozen=True):
    """What a step has to launch with, in one row of parameters.

    `counts` are the step's numbers and `texts` its other resources, by their keys. Both hold only what was given.
    `own_text` ends the words; `job_text` ends those that submit it as a job.
    """

    batch_type: str
    counts: Mapping[str, int] = {}
    texts: Mapping[str, str] = {}
    own_text: str = ""
    job_text: str = ""
    walltime_s: float | None = None
    is_exclusive: bool = False
    has_mpiexec: bool = False

    def launcher(self, brackets: str) -> str:
        """The words for one use of `$(LAUNCHER)`, with its brackets if it has any."""
        asked = _asked(brackets)
        counts = self._counts | asked
        if "nodes" not in counts and "procs" not in counts:
            # Without numbers srun takes all that the worker's allocation has.
            counts |= {"nodes": "1", "procs": "1"}
        counts.setdefault("procs", counts.get("nodes", "1"))
        if "nodes" in counts and "procs" in asked and "nodes" not in asked:
            # srun complains of more nodes than processes.
            counts["nodes"] = str(min(self.counts["nodes"], int(asked["procs"])))
        return self._words(counts)

    def variable_launcher(self, brackets: str, script: str) -> str:
        """The words for one use of `$(VLAUNCHER)`: the shell's variables, where brackets give no number."""
        numbers = self._counts
        numbers |= {key: f"${{{name}}}" for key, (name, _) in _VARIABLES.items() if self._uses(key, script)}
        if self.batch_type == "local" and not assigns(script, "MERLIN_PROCS") and self.procs == 1:
            numbers["procs"] = "1"
        return self._words(numbers | _asked(brackets))

    def variable_defaults(self, script: str) -> dict[str, str]:
        """The variables that the words of `$(VLAUNCHER)` need, and the script does not set."""
        return {
            name: self._default(key, default)
            for key, (name, default) in _VARIABLES.items()
            if not assigns(script, name)
        }

    def has_room(self, brackets: str) -> bool:
        """Whether the step has as many nodes and procs as one use asks for."""
        room = {"nodes": self.counts.get("nodes", 1), "procs": self.procs}
        return all(int(number) <= room[key] for key, number in _asked(brackets).items())

    def unknown_keys(self) -> list[str]:
        """The step's resources of which this type makes no flag, and nobody else makes use."""
        knows = prefix_named(self.batch_type).knows
        return [key for key in (*self.counts, *self.texts) if key not in _FOR_JOBS and _FIELDS.get(key) not in knows]

    @property
    def procs(self) -> int:
        """How many processes the step has: one for each node if nothing else is said."""
        return self.counts.get("procs", self.counts.get("nodes", 1))

    @property
    def needs(self) -> Needs:
        """What a whole script of it needs."""
        counts = self.counts
        return Needs(
            nodes=counts.get("nodes", 1),
            procs=self.procs,
            cores_per_task=counts.get("cores per task", 1),
            gpus=counts.get("gpus", self.procs * counts.get("gpus per task", 0)),
            walltime_s=self.walltime_s,
            is_exclusive=self.is_exclusive,
        )

    @property
    def _counts(self) -> dict[str, str]:
        return {key: str(number) for key, number in self.counts.items()}

    def _default(self, key: str, default: str) -> str:
        return str(self.procs) if key == "procs" else self._counts.get(key, default)

    def _uses(self, key: str, script: str) -> bool:
        # A flag that asks for no GPUs is refused where there are none.
        return key != "gpus per task" or self.counts.get(key, 0) > 0 or assigns(script, "MERLIN_GPUS")

    def _words(self, numbers: Mapping[str, str]) -> str:
        fields = {**self.texts, **numbers}
        known = {field: fields[key] for key, field in _FIELDS.items() if key in fields and field != "is_exclusive"}
        resources = Resources(
            **known, walltime_s=self.walltime_s, is_exclusive=self.is_exclusive, has_mpiexec=self.has_mpiexec
        )
        words = prefix_named(self.batch_type).words(resources)
        return " ".join([*words, self.own_text] if self.own_text else words)


def assigns(script: str, name: str) -> bool:
    """Whether a script sets a variable, in the words of any common shell."""
    pattern = rf"(?m)^[^#\n]*\b(?:{name}\s*=(?!=)|(?:set|setenv)\s+(?:-\w+\s+)*{name}\s)"
    return re.search(pattern, script) is not None


def assignment(shell_name: str, name: str, value: str) -> str:
    """The line with which that shell sets a variable; empty if it is no shell that we know."""
    if shell_name in ("sh", "dash", "ash", "bash", "zsh", "ksh"):
        return f"{name}={value}\n"
    return f"set {name} = {value}\n" if shell_name in ("csh", "tcsh") else ""


def _asked(brackets: str) -> dict[str, str]:
    fields = _BRACKET.findall(brackets)
    asked = {}
    for position, (number, unit) in enumerate(fields):
        # A number without unit counts by its place, and one that is alone is procs.
        is_nodes = unit == "n" or (not unit and position == 0 and len(fields) == 2)
        asked["nodes" if is_nodes else "procs"] = str(int(number))
    return asked
