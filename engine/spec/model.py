"""The Spec: what the YAML says, checked and typed, before any token is expanded.

Every text that came from the file keeps its place, so that whoever finds a problem later can point at it.
"""

from __future__ import annotations

import msgspec


class Text(msgspec.Struct, frozen=True):
    """A scalar as the user wrote it, and where (1-based line and column of its first character).

    `is_block` tells a `|` or `>` scalar, whose first character stands on the line after the indicator: then `line`
    is the line of the first content line and `column` its indentation + 1.
    """

    value: str
    line: int = 0
    column: int = 0
    is_block: bool = False

    def locate(self, offset: int) -> tuple[int, int]:
        """Line and column of the character at `offset` of `value` (exact for `|` and one-line scalars)."""
        before = self.value[:offset]
        newlines = before.count("\n")
        in_line = len(before) - (before.rfind("\n") + 1)
        if newlines == 0:
            return self.line, self.column + in_line
        return self.line + newlines, (self.column if self.is_block else 1) + in_line


class PathDependency(msgspec.Struct, frozen=True):
    """A file or directory that must exist; `$(name)` is its path."""

    name: Text
    path: Text


class GitDependency(msgspec.Struct, frozen=True):
    """A repository cloned at queue time into `path/name`; `$(name)` is that path."""

    name: Text
    path: Text
    url: Text
    tag: Text | None = None
    branch: Text | None = None
    hash: Text | None = None


class Batch(msgspec.Struct, frozen=True):
    """Scheduler defaults and worker launch. Texts may hold tokens; they are not yet expanded."""

    type: Text = Text("local")
    shell: Text = Text("/bin/bash")
    bank: Text | None = None
    queue: Text | None = None
    walltime: Text | None = None
    nodes: Text | None = None
    is_dry_run: bool = False
    launch_pre: Text | None = None
    launch_args: Text | None = None
    worker_launch: Text | None = None
    flux_path: Text | None = None
    flux_start_opts: Text | None = None
    flux_exec: Text | None = None
    flux_exec_workers: Text | None = None
    reservation: Text | None = None
    qos: Text | None = None


class Run(msgspec.Struct, frozen=True):
    """The `run` block of a step. Texts may hold tokens; they are not yet expanded."""

    cmd: Text
    restart: Text | None = None
    depends: tuple[Text, ...] = ()
    task_queue: Text = Text("merlin")
    shell: Text | None = None
    batch_type: Text | None = None
    walltime: Text | None = None
    #: The resource keys that were given, by their spelling in the file: nodes, procs, "cores per task", gpus, …
    resources: dict[str, Text] = {}
    #: Raw extra text for a launcher, by its name: slurm, lsf, flux, pbs.
    launcher_texts: dict[str, Text] = {}
    named_resources: dict[str, Text] = {}
    #: What was given of the keys in `RUN_KEYS`: each says what it must, or holds a token.
    settings: dict[str, Text] = {}


class Step(msgspec.Struct, frozen=True):
    """A named block of the `study` list."""

    name: Text
    description: Text
    run: Run


class Parameter(msgspec.Struct, frozen=True):
    """One column of the parameter table: a value and a label text per row.

    `label` is either one template that holds `%%`, or a list of one text per row.
    """

    name: Text
    values: tuple[Text, ...]
    label: Text | tuple[Text, ...]
    shown_name: Text | None = None


class WorkerSettings(msgspec.Struct, frozen=True):
    """One entry of `merlin.resources.workers`."""

    name: Text
    args: Text = Text("")
    steps: tuple[Text, ...] = (Text("all"),)
    nodes: Text | None = None
    machines: tuple[Text, ...] = ()
    #: The entry's own `batch` block, keys as in the file.
    batch: dict[str, Text] = {}


class Samples(msgspec.Struct, frozen=True):
    """The `merlin.samples` block. Texts may hold tokens; they are not yet expanded."""

    file: Text
    column_labels: tuple[Text, ...] = ()
    generate: Text | None = None
    #: What was given of the keys in `SAMPLES_KEYS`: each says what it must, or holds a token.
    settings: dict[str, Text] = {}


#: A YAML tree after merge keys and anchors: what the expanded spec is written from.
Tree = dict[str, "Tree"] | list["Tree"] | Text


class Spec(msgspec.Struct, frozen=True):
    """A study as its author wrote it. `path` is absolute."""

    path: str
    original: bytes
    tree: Tree
    name: Text
    description: Text
    steps: tuple[Step, ...]
    #: A list's items are joined by one blank each.
    variables: dict[str, Text] = {}
    labels: dict[str, Text] = {}
    sources: tuple[Text, ...] = ()
    path_dependencies: tuple[PathDependency, ...] = ()
    git_dependencies: tuple[GitDependency, ...] = ()
    batch: Batch = Batch()
    parameters: tuple[Parameter, ...] = ()
    workers: tuple[WorkerSettings, ...] = ()
    samples: Samples | None = None
    #: The path as the user gave it, for messages.
    given_path: str = ""

    @property
    def shown_path(self) -> str:
        """The path that messages name."""
        return self.given_path or self.path
