"""What a study will cost on disk, before anything of it is made: scripts, files, directories; never sample by sample.

It counts what mrun makes in the way that the study keeps its files, and one worker; and what it would make in the
other ways. What the steps write themselves nobody knows; of lean samples, which have .out and .err only if they print.
"""

from __future__ import annotations

import os
import tempfile

import msgspec

from mrun.engine.plan.model import WAYS_OF_FILES, Plan, PlanStep, SampleTable
from mrun.engine.table.paths import sample_depth
from mrun.engine.table.samples import SamplesRequest, open_samples

#: Of a worker with packed samples: segment, index, cells; and their directory.
PACKED_FILES, PACKED_DIRECTORIES = 3, 1
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


class WayEstimate(msgspec.Struct, frozen=True):
    """One of the ways to keep files of samples. None: not known before the samples are."""

    files: str
    inodes: int | None
    inodes_per_sample: int


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
    #: How the study keeps files of samples; and inodes in every way.
    kept: str
    ways: tuple[WayEstimate, ...]
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
    counts = {way: _count(plan, way, is_count_known=is_count_known) for way in WAYS_OF_FILES}
    kept = next((step.files for step in plan.steps if step.uses_samples), "full")
    of_study = _sample_files(request, is_count_known=is_count_known) + STUDY_FILES
    ways = {way: _whole(count, way, of_study) for way, count in counts.items()}
    chosen, is_known = ways[kept], all(count.size is not None for count in counts[kept])
    return Estimate(
        steps=tuple(_step_estimate(count, tuple(sorted(queues[count.step.index]))) for count in counts[kept]),
        scripts=sum(count.scripts or 0 for count in counts[kept]) if is_known else None,
        files=chosen.files if is_known else None,
        directories=chosen.directories if is_known else None,
        inodes=chosen.files + chosen.directories if is_known else None,
        kept=kept,
        ways=tuple(
            WayEstimate(
                way,
                whole.files + whole.directories if is_known else None,
                whole.files_per_sample + whole.directories_per_sample,
            )
            for way, whole in ways.items()
        ),
        known_files=chosen.files,
        known_directories=chosen.directories,
        files_per_sample=chosen.files_per_sample,
        directories_per_sample=chosen.directories_per_sample,
    )


def sample_directories(count: int, level_max_dirs: int) -> int:
    """Directories of so many samples below their node's, with the levels above them."""
    depth = sample_depth(count, level_max_dirs)
    # In whole numbers: so many blocks of l^k samples, rounded up, for each level.
    return sum(-(-count // level_max_dirs**level) for level in range(depth))


class _Count(msgspec.Struct, frozen=True):
    """What a step makes in one way. `size` None: not known; then files and directories are those beside samples'."""

    step: PlanStep
    size: int | None
    files: int
    directories: int
    files_per_sample: int
    directories_per_sample: int

    @property
    def scripts(self) -> int | None:
        """Executions: nodes times samples."""
        return None if self.size is None else self.step.node_count * self.size


class _Whole(msgspec.Struct, frozen=True):
    """All steps together, and the study's own."""

    files: int
    directories: int
    files_per_sample: int
    directories_per_sample: int


def _count(plan: Plan, way: str, *, is_count_known: bool) -> list[_Count]:
    return [
        _count_step(plan, step, way if step.uses_samples else "full",
                    plan.size(step) if is_count_known or not step.uses_samples else None)
        for step in plan.steps
    ]  # fmt: skip


def _count_step(plan: Plan, step: PlanStep, way: str, size: int | None) -> _Count:
    nodes, scripts = step.node_count, 1 + (step.restart is not None)
    # The step's directory, and one for each combination.
    files, directories = 0, 1 + len(step.rows)
    if way == "full":
        each_files, each_directories = FILES_PER_INSTANCE - 1 + scripts, 1
    else:
        files, each_files, each_directories = nodes * scripts, 0, int(way == "lean")
    if size is None:
        return _Count(step, size, files, directories, nodes * each_files, nodes * each_directories)
    files += nodes * size * each_files
    if each_directories:
        directories += nodes * sample_directories(size, plan.level_max_dirs)
    return _Count(step, size, files, directories, 0, 0)


def _whole(counts: list[_Count], way: str, files_of_study: int) -> _Whole:
    is_packed = way == "packed" and any(count.step.uses_samples for count in counts)
    return _Whole(
        files_of_study + is_packed * PACKED_FILES + sum(count.files for count in counts),
        STUDY_DIRECTORIES + is_packed * PACKED_DIRECTORIES + sum(count.directories for count in counts),
        sum(count.files_per_sample for count in counts),
        sum(count.directories_per_sample for count in counts),
    )


def _step_estimate(count: _Count, queues: tuple[str, ...]) -> StepEstimate:
    step, is_known = count.step, count.size is not None
    return StepEstimate(
        name=step.name,
        queues=queues,
        parameters=step.parameters,
        nodes=step.node_count,
        uses_samples=step.uses_samples,
        samples=count.size,
        scripts=count.scripts,
        files=count.files if is_known else None,
        directories=count.directories if is_known else None,
    )


def _sample_files(request: SamplesRequest | None, *, is_count_known: bool) -> int:
    if request is None:
        return 0
    generated = 0 if is_count_known else GENERATE_FILES
    # What will be generated is told by its name.
    is_text = not request.paths[0].lower().endswith(".npy")
    return generated + (CONVERTED_FILES if is_text else 0)
