"""The Plan: nodes, edges, templates and the sample table. What a worker needs to run any sample of a study.

Nothing in it grows with the number of samples. A node is (step, row); the nodes of a step are numbered in one block, so
the k-th node of step s is `s.first_node + k`.
"""

from __future__ import annotations

import enum

import msgspec


class TokenKind(enum.StrEnum):
    """A hole of a template that is filled when the node's row, or the sample, is known."""

    PARAMETER = "p"  # argument: the parameter's name; its value in this row
    PARAMETER_LABEL = "l"  # argument: the parameter's name; its label text in this row
    WORKSPACE = "w"  # argument: ""; the directory of this node, absolute
    STEP_WORKSPACE = "s"  # argument: a step's name; the directory of its node of this row, absolute
    SAMPLE_VALUE = "v"  # argument: the column's index, decimal
    SAMPLE_ID = "i"  # 0-based
    SAMPLE_PATH = "d"  # such as 0/1; empty when there is one sample
    SAMPLE_VECTOR = "r"  # all values of the sample, blank-separated


class Token(msgspec.Struct, frozen=True, array_like=True):
    """A hole in a template."""

    kind: TokenKind
    argument: str = ""


#: Literal texts and holes, in order. Rendering is a join.
Template = tuple[str | Token, ...]


class PlanParameter(msgspec.Struct, frozen=True):
    """A column of the parameter table, one value and one label text per row."""

    name: str
    values: tuple[str, ...]
    labels: tuple[str, ...]


class SampleTable(msgspec.Struct, frozen=True):
    """A table of samples on disk, and what tells whether it is still the same file.

    `kind` npy: `path` is the .npy file, memory-mapped. `kind` text: `path` holds the cells' UTF-8 bytes back to back,
    and `offsets_path` is a .npy of int64, shape (count × columns + 1,), where each cell begins.
    """

    kind: str
    path: str
    count: int
    columns: tuple[str, ...]
    size_bytes: int
    mtime_ns: int
    dtype: str = ""
    offsets_path: str = ""


class PlanStep(msgspec.Struct, frozen=True):
    """A step: everything that its nodes share."""

    index: int
    name: str
    #: Its directory under the study's workspace, and the stem of its instances' file names.
    directory: str
    shell: str
    cmd: Template
    restart: Template | None
    uses_samples: bool
    first_node: int
    #: The parameter row of each node; () when the step uses no parameter (then it has one node).
    rows: tuple[int, ...]
    #: Names of the parameters that it uses, sorted.
    parameters: tuple[str, ...]
    max_retries: int = 30
    retry_delay_s: float = 1.0
    walltime_s: float | None = None
    on_failure: str = "continue"
    max_losses: int = 3
    chunk: int | None = None
    #: So many samples of each node may fail before the study is aborted; None: any number.
    max_fails: int | None = None
    #: Number of the class (equal resources and walltime) that it belongs to.
    resource_class: int = 0
    #: How the names of its scripts end; `.slurm.sh` for every scheduler, as with Merlin.
    script_ending: str = ".sh"

    @property
    def node_count(self) -> int:
        """Steps without parameters have one node."""
        return len(self.rows) or 1


class Node(msgspec.Struct, frozen=True):
    """A vertex: a step in a parameter row, with its edges to other nodes.

    Edges from a starred dependency (`x_*`) are not here but in `Plan.barriers`: they join steps, not nodes, so that a
    funnel of n nodes into m nodes costs n + m and not n × m.
    """

    step: int
    queue: str
    #: Nodes all of whose samples must be settled first (ordinary dependencies that are not sample by sample).
    all_parents: tuple[int, ...] = ()
    #: Nodes of which sample i must be settled before this node's sample i.
    each_parents: tuple[int, ...] = ()


class Barrier(msgspec.Struct, frozen=True):
    """Every node of step `child` waits for every sample of every node of step `parent`."""

    parent: int
    child: int


class Plan(msgspec.Struct, frozen=True):
    """A study, ready to be stored and run."""

    name: str
    description: str
    workspace: str
    spec_path: str
    steps: tuple[PlanStep, ...]
    nodes: tuple[Node, ...]
    barriers: tuple[Barrier, ...] = ()
    parameters: tuple[PlanParameter, ...] = ()
    samples: SampleTable | None = None
    level_max_dirs: int = 25
    #: What is worth saying but stops nothing.
    warnings: tuple[str, ...] = ()

    def size(self, step: PlanStep) -> int:
        """Samples of each node of that step."""
        return self.samples.count if step.uses_samples and self.samples else 1
