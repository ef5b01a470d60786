"""What samples printed, wherever the study's way of keeping files has put it. Needs no server."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from mrun.engine.errors import WorkspaceError
from mrun.engine.plan.model import Plan
from mrun.engine.steps.render import NodeText
from mrun.engine.workspace.plan_file import check_steps
from mrun.engine.workspace.segments import read_packed

_READ_BYTES = 1 << 20


class Source(msgspec.Struct, frozen=True):
    """A part of a file. `length` None: to its end."""

    path: str
    offset: int = 0
    length: int | None = None

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, in pieces.

        Raises:
            WorkspaceError: it can't be read.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                left = self.length
                while left is None or left > 0:
                    data = file.read(_READ_BYTES if left is None else min(left, _READ_BYTES))
                    if not data:
                        return
                    left = None if left is None else left - len(data)
                    yield data
        except OSError as error:
            raise WorkspaceError(f"'{self.path}' can't be read: {error.strerror}.") from error


class SampleOutput(msgspec.Struct, frozen=True):
    """What one sample printed. A stream is None if there is no file of it."""

    step: str
    instance: str
    sample: int
    #: The directory that it has, or would have with full files, below the workspace.
    directory: str
    out: Source | None
    err: Source | None


def sample_outputs(
    plan: Plan, steps: Sequence[str] = (), ranges: Iterable[tuple[int, int]] | None = None
) -> Iterator[SampleOutput]:
    """The outputs of a study, node by node, in the order of samples; of executions that are accounted or still run.

    Args:
        steps: only these; () means all.
        ranges: only these half-open ranges of sample numbers; then steps without samples are left out.

    Raises:
        NotFoundError: the study has no step of a name.
        WorkspaceError: a file can't be read.
    """
    check_steps(plan, steps)
    wanted = None if ranges is None else _disjoint(ranges)
    for number, node in enumerate(plan.nodes):
        step = plan.steps[node.step]
        if (steps and step.name not in steps) or (wanted is not None and not step.uses_samples):
            continue
        text = NodeText(plan, number)
        own = [(low, min(high, text.size)) for low, high in wanted or [(0, text.size)]]
        yield from _packed(plan, text, number, own) if step.files == "packed" else _in_directories(plan, text, own)


def _packed(plan: Plan, text: NodeText, node: int, ranges: list[tuple[int, int]]) -> Iterator[SampleOutput]:
    for one in read_packed(plan.workspace, node, ranges):
        out = Source(one.path, one.offset, one.out)
        err = Source(one.path, one.offset + one.out, one.err)
        yield _output(plan, text, one.sample, out, err)


def _in_directories(plan: Plan, text: NodeText, ranges: list[tuple[int, int]]) -> Iterator[SampleOutput]:
    for sample in (sample for low, high in ranges for sample in range(low, high)):
        stem = os.path.join(text.sample_directory(sample), text.instance_name)
        out, err = (Source(path) if os.path.exists(path) else None for path in (f"{stem}.out", f"{stem}.err"))
        if out or err:
            yield _output(plan, text, sample, out, err)


def _output(plan: Plan, text: NodeText, sample: int, out: Source | None, err: Source | None) -> SampleOutput:
    directory = os.path.relpath(text.sample_directory(sample), plan.workspace)
    return SampleOutput(text.step.name, text.instance_name, sample, directory, out, err)


def _disjoint(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order, and each sample once."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined
