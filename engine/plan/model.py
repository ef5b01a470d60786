"""The Plan: nodes, edges, templates and the sample table. What a worker needs to run any sample of a study.

Nothing in it grows with the number of samples. A node is (step, row); the nodes of a step are numbered in one block, so
the k-th node of step s is `s.first_node + k`.
"""

from __future__ import annotations

import enum

import msgspec

from mrun.engine.resources import Demand
from mrun.launchers.resources import Account, Needs

#: How files of samples can be kept: see work/files.py.
WAYS_OF_FILES = ("full", "lean", "packed")


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
    ALL_PATHS = "a"  # the paths of all samples, blank-separated
    TERMS_TEXT = "t"  # argument: the index of a text among the terms of this node, decimal


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
    and `offsets_path` is a .npy of int64, shape (count × columns + 1,), where each cell begins. `kind` parts: samples
    were added to a study; its rows are those of all `parts`, in order, each of one of the other kinds.
    """

    kind: str
    path: str
    count: int
    columns: tuple[str, ...]
    size_bytes: int
    mtime_ns: int
    dtype: str = ""
    offsets_path: str = ""
    parts: tuple[SampleTable, ...] = ()

    @property
    def first_count(self) -> int:
        """How many samples the study began with: their directories keep the depth that this gave them."""
        return self.parts[0].count if self.parts else self.count

    @property
    def edition(self) -> int:
        """How many times samples were added."""
        return max(0, len(self.parts) - 1)


class JobTerms(Account, frozen=True, omit_defaults=True):
    """What a scheduler is told of the jobs of a node, besides what they need.

    Attributes:
        extra: words for whoever submits them, such as `sbatch`.
        throttle: so many of the step's jobs may be with the scheduler at a time, for each worker; 0: any number.
    """

    extra: tuple[str, ...] = ()
    throttle: int = 0


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """On what terms a node runs: what may differ among the rows of a step, besides what its templates say."""

    shell: str
    max_retries: int = 30
    retry_delay_s: float = 1.0
    walltime_s: float | None = None
    on_failure: str = "continue"
    max_losses: int = 3
    chunk: int | None = None
    #: So many samples of each node may fail before the study is aborted; None: any number.
    max_fails: int | None = None
    #: If that was told as a share of them: it changes when samples are added.
    max_fails_percent: float | None = None
    #: Number of the class (equal resources and walltime) that it belongs to.
    resource_class: int = 0
    #: What a sample takes of its worker; its class may take a little more.
    demand: Demand = Demand()
    #: How the names of its scripts end; `.slurm.sh` for every scheduler, as with Merlin.
    script_ending: str = ".sh"
    #: What stands in the templates' holes of kind TERMS_TEXT.
    texts: tuple[str, ...] = ()
    #: The batch type whose launcher starts its scripts, each on what it needs (`mode: step`), or takes them as jobs.
    #: Empty: the worker itself.
    started_by: str = ""
    needs: Needs = Needs()
    #: Its scripts are batch jobs (`mode: job`); None: they are not.
    job: JobTerms | None = None


class PlanStep(Terms, frozen=True, kw_only=True, omit_defaults=True):
    """A step: everything that its nodes share; and its terms, which are those of its first node where they differ."""

    index: int
    name: str
    #: Its directory under the study's workspace, and the stem of its instances' file names.
    directory: str
    cmd: Template
    restart: Template | None
    uses_samples: bool
    #: How its samples' files are kept: full, lean or packed. Always full if it uses no samples.
    files: str = "full"
    #: Its scripts are run by shells that stay. They hold nothing by which they could tell.
    is_warm: bool = False
    first_node: int
    #: The parameter row of each node; () when the step uses no parameter (then it has one node).
    rows: tuple[int, ...]
    #: Names of the parameters that it uses, sorted.
    parameters: tuple[str, ...]
    #: The different terms, and which of them each node has; both () when all nodes have the step's own.
    other_terms: tuple[Terms, ...] = ()
    terms_of_nodes: tuple[int, ...] = ()

    @property
    def node_count(self) -> int:
        """Steps without parameters have one node."""
        return len(self.rows) or 1

    @property
    def lists_paths(self) -> bool:
        """Whether a script of it holds the paths of all samples."""
        pieces = (*self.cmd, *(self.restart or ()))
        return any(isinstance(piece, Token) and piece.kind is TokenKind.ALL_PATHS for piece in pieces)

    def terms(self, node_index: int) -> Terms:
        """The terms of one of its nodes."""
        return self.other_terms[self.terms_of_nodes[node_index - self.first_node]] if self.other_terms else self


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

    def class_walltimes_s(self) -> list[float]:
        """The longest walltime in each class of resources; 0 where there is none."""
        longest: dict[int, float] = {}
        for step in self.steps:
            for terms in step.other_terms or (step,):
                # A job outlives its worker, and that one's allocation.
                walltime_s = 0.0 if terms.job else terms.walltime_s or 0.0
                longest[terms.resource_class] = max(walltime_s, longest.get(terms.resource_class, 0.0))
        return [longest[number] for number in sorted(longest)]

    def class_demands(self) -> list[Demand]:
        """What a sample of each class takes of its worker: enough for any of its steps."""
        largest: dict[int, Demand] = {}
        for step in self.steps:
            for terms in step.other_terms or (step,):
                # Steps of a class differ in their CPUs, if in anything.
                known = largest.setdefault(terms.resource_class, terms.demand)
                if terms.demand.cpus > known.cpus:
                    largest[terms.resource_class] = terms.demand
        return [largest[number] for number in sorted(largest)]

    def class_steps(self) -> list[list[str]]:
        """The names of the steps of each class."""
        names: dict[int, dict[str, None]] = {}
        for step in self.steps:
            for terms in step.other_terms or (step,):
                names.setdefault(terms.resource_class, {})[step.name] = None
        return [list(names[number]) for number in sorted(names)]
