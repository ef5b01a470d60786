"""What a study will cost on disk, before anything of it is made: scripts, files, directories; never sample by sample.

It counts what mrun makes with `files: full`, and one worker. What the steps write themselves nobody knows.
"""

from __future__ import annotations

import os
import tempfile

import msgspec

from mrun.engine.plan.model import Plan, PlanStep, SampleTable
from mrun.engine.plan.paths import sample_depth
from mrun.engine.plan.samples import SamplesRequest, open_samples

#: Of every instance: .sh, .out, .err, MERLIN_FINISHED.
FILES_PER_INSTANCE = 4
#: The workspace, merlin_info, mrun_info, mrun_info/journal.
STUDY_DIRECTORIES = 4
#: The spec as it was written, as it was ordered, and expanded; the plan; and the journal of one worker.
STUDY_FILES = 5
#: cmd.sh, cmd.out, cmd.err, and the table that they make.
GENERATE_FILES = 4
#: The cells of a text table, and where they begin.
CONVERTED_FILES = 2


class StepEstimate(msgspec.Struct, frozen=True):
    """A step. None: not known before the samples are."""

    name: str
    queues: tuple[str, ...]
    parameters: tuple[str, ...]
    nodes: int
    uses_samples: bool
    #: Of each node; 1 if it uses none.
    samples: int | None
    #: Instances: nodes times samples.
    scripts: int | None
    files: int | None
    directories: int | None


class Estimate(msgspec.Struct, frozen=True):
    """A study. None: not known before the samples are; then `known_…` is what there will be beside them.

    `…_per_sample` is what each sample adds then, and 0 otherwise; the levels above samples' directories add a little.
    """

    steps: tuple[StepEstimate, ...]
    scripts: int | None
    files: int | None
    directories: int | None
    #: Files and directories.
    inodes: int | None
    known_files: int
    known_directories: int
    files_per_sample: int
    directories_per_sample: int


def table_at_hand(request: SamplesRequest) -> SampleTable | None:
    """The table of samples if its file is there; a text table is read to its end. Leaves nothing behind.

    Raises:
        SpecError: the file is unfit.
    """
    path = next((path for path in request.paths if os.path.isfile(path)), None)
    if path is None:
        return None
    with tempfile.TemporaryDirectory(prefix="mrun-") as directory:
        return open_samples(path, request.columns, directory)


def estimate_study(plan: Plan, request: SamplesRequest | None, *, is_count_known: bool) -> Estimate:
    """What will be made. Its cost grows with nodes, not with samples.

    Args:
        plan: compiled with any table of samples if their number is not known.
        request: the samples that the study asks for, if any.
    """
    queues: dict[int, dict[str, None]] = {step.index: {} for step in plan.steps}
    for node in plan.nodes:
        queues[node.step][node.queue] = None
    steps = tuple(
        _estimate_step(plan, step, tuple(sorted(queues[step.index])), is_count_known=is_count_known)
        for step in plan.steps
    )
    unknown = [step for step in plan.steps if steps[step.index].samples is None]
    # The step's own directory, and those of its nodes, are there whatever the number of samples.
    known_files = STUDY_FILES + _sample_files(request, is_count_known=is_count_known)
    known_files += sum(step.files or 0 for step in steps)
    known_directories = STUDY_DIRECTORIES + sum(step.directories or 0 for step in steps)
    known_directories += sum(_node_directories(step) for step in unknown)
    return Estimate(
        steps=steps,
        scripts=None if unknown else sum(step.scripts or 0 for step in steps),
        files=None if unknown else known_files,
        directories=None if unknown else known_directories,
        inodes=None if unknown else known_files + known_directories,
        known_files=known_files,
        known_directories=known_directories,
        files_per_sample=sum(step.node_count * _instance_files(step) for step in unknown),
        directories_per_sample=sum(step.node_count for step in unknown),
    )


def sample_directories(count: int, level_max_dirs: int) -> int:
    """Directories of so many samples below their node's, with the levels above them."""
    depth = sample_depth(count, level_max_dirs)
    # In whole numbers: so many blocks of l^k samples, rounded up, for each level.
    return sum(-(-count // level_max_dirs**level) for level in range(depth))


def _estimate_step(plan: Plan, step: PlanStep, queues: tuple[str, ...], *, is_count_known: bool) -> StepEstimate:
    is_known = is_count_known or not step.uses_samples
    size = plan.size(step)
    scripts = step.node_count * size
    directories = _node_directories(step) + step.node_count * sample_directories(size, plan.level_max_dirs)
    return StepEstimate(
        name=step.name,
        queues=queues,
        parameters=step.parameters,
        nodes=step.node_count,
        uses_samples=step.uses_samples,
        samples=size if is_known else None,
        scripts=scripts if is_known else None,
        files=scripts * _instance_files(step) if is_known else None,
        directories=directories if is_known else None,
    )


def _node_directories(step: PlanStep) -> int:
    """The step's, and one for each combination."""
    return 1 + len(step.rows)


def _instance_files(step: PlanStep) -> int:
    return FILES_PER_INSTANCE + (step.restart is not None)


def _sample_files(request: SamplesRequest | None, *, is_count_known: bool) -> int:
    if request is None:
        return 0
    generated = 0 if is_count_known else GENERATE_FILES
    # What will be generated is told by its name.
    is_text = not request.paths[0].lower().endswith(".npy")
    return generated + (CONVERTED_FILES if is_text else 0)
