"""Steps as they are before rows: names, dependencies, scripts whose variables are put in, what each of them uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from mrun.engine.nearest import nearest_hint
from mrun.engine.plan.durations import parse_walltime_s
from mrun.engine.plan.findings import Findings
from mrun.engine.plan.launching import COUNTS, Launching, assignment
from mrun.engine.plan.names import PARAMETER_MEANINGS, Meaning
from mrun.engine.plan.resolve import EVERYWHERE, STUDY_ONLY, Meant, Pieces, Resolver, Where
from mrun.engine.plan.tokens import safe_name
from mrun.engine.spec.model import Spec, Step, Text
from mrun.engine.spec.texts import parse_flag
from mrun.launchers.prefixes import PREFIXES

#: Directories of the workspace that are not steps'.
_TAKEN_DIRECTORIES = frozenset({"merlin_info", "mrun_info"})

_MAX_FAILS = re.compile(r"\d+|\d+(\.\d*)?%")
#: Where a parameter stands in a text that is not yet cut into pieces.
_HOLE = re.compile("\0([^\0]*)\0")
_WITH_PARAMETERS = STUDY_ONLY | PARAMETER_MEANINGS


class DraftStep(msgspec.Struct, frozen=True):
    """A step, read. Other steps are given by their index."""

    index: int
    step: Step
    name: str
    directory: str
    shell: str
    #: `local`, or a scheduler's.
    batch_type: str
    cmd: Pieces
    restart: Pieces | None
    queue: Pieces
    own_parameters: frozenset[str]
    #: Steps whose workspace its scripts mention.
    mentioned: frozenset[int]
    ordinary: tuple[int, ...]
    starred: tuple[int, ...]
    uses_samples: bool
    walltime_s: float | None
    #: A number, or a percentage with its sign.
    max_fails: str | None
    #: Equal for steps that need equal resources and walltime.
    needs: tuple[tuple[str, str], ...]


def read_steps(spec: Spec, resolver: Resolver, findings: Findings) -> tuple[DraftStep, ...]:
    """Read every step, noting all that is wrong with it. The resolver learns their expanded names."""
    names = [_name_text(step.name, f"the name of step '{step.name.value}'", resolver) for step in spec.steps]
    _check_names(spec, names, findings)
    resolver.step_numbers.update({name: index for index, name in enumerate(names)})
    sources = [resolver.study_text(source, "env.sources") for source in spec.sources]
    drafts = tuple(
        _Reader(spec, step, resolver, findings).read(names[i], i, sources) for i, step in enumerate(spec.steps)
    )
    _check_circles(drafts, findings)
    _warn_of_mentions(drafts, findings)
    return drafts


class _Reader:
    """Reads one step."""

    def __init__(self, spec: Spec, step: Step, resolver: Resolver, findings: Findings) -> None:
        self._spec = spec
        self._step = step
        self._run = step.run
        self._resolver = resolver
        self._findings = findings
        self._parameters: set[str] = set()
        self._holes: dict[str, Meant] = {}

    def read(self, name: str, index: int, sources: Sequence[str]) -> DraftStep:
        step, run = self._step, self._run
        self._check_supported()
        resources = {
            key: self._fixed(text, key) if key == "exclusive" else self._with_holes(text, key)
            for key, text in run.resources.items()
        }
        walltime_s = self._walltime_s()
        shell = self._fixed(run.shell or self._spec.batch.shell, "shell")
        launching = self._launching(resources, walltime_s)
        head = self._source_lines(sources, shell)
        cmd = self._script(run.cmd, "cmd", launching, head)
        restart = self._script(run.restart, "restart", launching, head) if run.restart else None
        queue = self._pieces(run.task_queue, "task_queue", _WITH_PARAMETERS)
        for text in (step.name, step.description):
            self._pieces(text, "description" if text is step.description else "name", EVERYWHERE)
        for key, text in run.launcher_texts.items():
            self._pieces(text, key, _WITH_PARAMETERS)
        ordinary, starred = self._dependencies()
        scripts = [piece for piece in (*cmd, *(restart or ())) if isinstance(piece, Meant)]
        return DraftStep(
            index=index,
            step=step,
            name=name,
            directory=safe_name(name),
            shell=shell.strip() or "/bin/bash",
            batch_type=launching.batch_type,
            cmd=cmd,
            restart=restart,
            queue=queue,
            own_parameters=frozenset(self._parameters),
            mentioned=frozenset(int(p.argument) for p in scripts if p.meaning is Meaning.STEP_WORKSPACE),
            ordinary=ordinary,
            starred=starred,
            uses_samples=any(piece.meaning is Meaning.SAMPLE for piece in scripts),
            walltime_s=walltime_s,
            max_fails=self._max_fails(),
            needs=tuple(sorted({**resources, "walltime": str(walltime_s)}.items())),
        )

    def _what(self, key: str) -> str:
        return f"{key} of step '{self._step.name.value}'"

    def _pieces(self, text: Text, key: str, allowed: frozenset[Meaning], *, is_script: bool = False) -> Pieces:
        """The text read; the parameters in it are noted as used."""
        pieces = self._resolver.read(text, Where(self._what(key), allowed, is_script))
        self._parameters.update(
            piece.argument for piece in pieces if isinstance(piece, Meant) and piece.meaning in PARAMETER_MEANINGS
        )
        return pieces

    def _fixed(self, text: Text, key: str) -> str:
        """The text, which must be the same for all rows of parameters."""
        pieces = self._pieces(text, key, _WITH_PARAMETERS)
        for piece in pieces:
            if isinstance(piece, Meant):
                message = f"A parameter in {self._what(key)} is not supported yet."
                self._findings.error(piece.use.text, message, offset=piece.use.offset)
        return "".join(piece for piece in pieces if isinstance(piece, str))

    def _script(self, text: Text, key: str, launching: Launching, head: Sequence[str]) -> Pieces:
        """A script with its first lines, and its launchers put in."""
        read = self._pieces(text, key, EVERYWHERE, is_script=True)
        literal = "".join(piece if isinstance(piece, str) else "\0" for piece in read)
        pieces: list[str | Meant] = []
        is_variable = False
        for piece in read:
            if isinstance(piece, Meant) and piece.meaning in (Meaning.LAUNCHER, Meaning.VARIABLE_LAUNCHER):
                is_variable |= piece.meaning is Meaning.VARIABLE_LAUNCHER
                pieces.extend(self._launcher(piece, launching, literal))
            elif (
                isinstance(piece, Meant) and piece.meaning in (Meaning.SAMPLE, Meaning.TABLE) and not self._spec.samples
            ):
                message = f"'$({piece.use.name})' is used, and the study has no samples."
                self._findings.error(piece.use.text, message, offset=piece.use.offset, hint="Add merlin.samples.")
            else:
                pieces.append(piece)
        defaults = self._variable_defaults(text, launching.variable_defaults(literal)) if is_variable else ()
        return (*defaults, *head, *pieces)

    def _launcher(self, piece: Meant, launching: Launching, script: str) -> Pieces:
        """The words for one use, and the step's own text for that launcher behind them."""
        use = piece.use
        if not launching.has_room(use.brackets):
            message = f"'{use.raw}' asks for more nodes or procs than the step has."
            self._findings.error(use.text, message, offset=use.offset)
        is_variable = piece.meaning is Meaning.VARIABLE_LAUNCHER
        words = launching.variable_launcher(use.brackets, script) if is_variable else launching.launcher(use.brackets)
        filled = self._filled(words)
        own = self._run.launcher_texts.get(launching.text_key)
        if launching.batch_type != "local":
            for key in launching.unknown_keys():
                message = f"'{key}' of step '{self._step.name.value}' has no effect with batch type"
                self._findings.warn(self._run.resources[key], f"{message} '{launching.batch_type}'.")
        return filled if own is None else (*filled, " ", *self._pieces(own, launching.text_key, _WITH_PARAMETERS))

    def _variable_defaults(self, text: Text, defaults: Mapping[str, str]) -> Pieces:
        shell = shell_name(self._fixed(self._run.shell or self._spec.batch.shell, "shell"))
        lines = [assignment(shell, name, value) for name, value in defaults.items()]
        if not all(lines):
            message = f"'$(VLAUNCHER)' of step '{self._step.name.value}' needs a shell's variables."
            self._findings.error(text, message, hint="Use '$(LAUNCHER)', or a shell such as /bin/bash.")
        return self._filled("".join(lines))

    def _launching(self, resources: dict[str, str], walltime_s: float | None) -> Launching:
        counts = self._counts(resources)
        exclusive = resources.get("exclusive", "no")
        if parse_flag(exclusive.strip()) is None:
            message = f"exclusive must be yes or no, not '{exclusive}'."
            self._findings.error(self._run.resources["exclusive"], message)
        return Launching(
            batch_type=self._batch_type(),
            counts={
                key: str(numbers[0]) if not _HOLE.search(resources[key]) else resources[key].strip()
                for key, numbers in counts.items()
            },
            least={key: min(numbers, default=COUNTS[key]) for key, numbers in counts.items()},
            texts={key: value.strip() for key, value in resources.items() if key not in COUNTS and value.strip()},
            walltime_s=walltime_s,
            is_exclusive=parse_flag(exclusive.strip()) or False,
            has_mpiexec=self._resolver.variables.is_command("mpiexec"),
        )

    def _batch_type(self) -> str:
        text = self._run.batch_type or self._spec.batch.type
        batch_type = self._fixed(text, "batch.type").strip()
        if batch_type in PREFIXES:
            return batch_type
        self._findings.error(text, f"'{batch_type}' is no batch type.", hint=nearest_hint(batch_type, PREFIXES))
        return "local"

    def _counts(self, resources: dict[str, str]) -> dict[str, list[int]]:
        """The numbers among the resources, for each row of parameters; one number where rows do not differ."""
        counts = {}
        for key in COUNTS:
            if key not in resources:
                continue
            try:
                counts[key] = [_count(text, COUNTS[key]) for text in self._in_rows(resources[key])]
            except ValueError as error:
                message = f"{key} must be a whole number of at least {COUNTS[key]}, not '{error}'."
                self._findings.error(self._run.resources[key], message)
        return counts

    def _in_rows(self, text: str) -> list[str]:
        """A text with holes as it is in each row."""
        filled = [text]
        for parameter in self._spec.parameters:
            name = parameter.name.value
            if f"\0{name}\0" in text:
                what = f"a value of '{name}'"
                values = [self._resolver.study_text(value, what) for value in parameter.values]
                # Rows of different lengths are a problem that is noted elsewhere; here the shortest counts.
                rows = filled * len(values) if len(filled) == 1 else filled
                filled = [row.replace(f"\0{name}\0", value) for row, value in zip(rows, values, strict=False)]
        return filled

    def _with_holes(self, text: Text, key: str) -> str:
        """The text, in which a parameter is a hole that `_filled` makes a piece again."""
        parts = []
        for piece in self._pieces(text, key, _WITH_PARAMETERS):
            if isinstance(piece, str):
                parts.append(piece)
            elif piece.meaning is Meaning.PARAMETER:
                self._holes[piece.argument] = piece
                parts.append(f"\0{piece.argument}\0")
            else:
                message = f"'$({piece.use.name})' can't be used in {self._what(key)}, only a parameter's value."
                self._findings.error(piece.use.text, message, offset=piece.use.offset)
        return "".join(parts)

    def _filled(self, text: str) -> Pieces:
        parts = _HOLE.split(text)
        # Every second part is what stood in a hole.
        pieces = [self._holes[part] if index % 2 else part for index, part in enumerate(parts)]
        return tuple(piece for piece in pieces if piece != "")

    def _walltime_s(self) -> float | None:
        text = self._run.walltime
        if text is None:
            return None
        value = self._fixed(text, "walltime")
        try:
            return parse_walltime_s(value)
        except ValueError:
            message = f"'{value}' is not a walltime."
            self._findings.error(text, message, hint="Write [[[d:]h:]m:]s or seconds, such as 01:30:00 or 5400.")
            return None

    def _max_fails(self) -> str | None:
        text = self._run.max_fails
        value = None if text is None else self._fixed(text, "max_fails").strip()
        if text is not None and value is not None and not _MAX_FAILS.fullmatch(value):
            self._findings.error(text, f"max_fails '{value}' is not a number of samples or a percentage.")
            return None
        return value

    def _dependencies(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ordinary and starred dependencies, each once, in the order of the file."""
        ordinary: dict[int, None] = {}
        starred: dict[int, None] = {}
        numbers = self._resolver.step_numbers
        for text in self._run.depends:
            name = _name_text(text, self._what("depends"), self._resolver)
            stems = [stem for end in ("_*", "*") if name.endswith(end) and (stem := name.removesuffix(end)) in numbers]
            if name in numbers:
                ordinary[numbers[name]] = None
            elif stems:
                starred[numbers[stems[0]]] = None
            else:
                hint = nearest_hint(name.rstrip("*").rstrip("_"), numbers, lists_known=False)
                message = f"Step '{self._step.name.value}' depends on '{name}', which is no step."
                self._findings.error(text, message, hint=hint)
        return tuple(ordinary), tuple(starred)

    def _source_lines(self, sources: Sequence[str], shell: str) -> tuple[str, ...]:
        if not sources:
            return ()
        word = source_word(shell)
        if not word:
            message = (
                f"env.sources is left out of step '{self._step.name.value}': '{shell}' is not a shell that has it."
            )
            self._findings.warn(self._spec.sources[0], message)
            return ()
        return tuple(f"{word} {source}\n" for source in sources)

    def _check_supported(self) -> None:
        run, step = self._run, self._step
        if run.mode != "inside":
            self._findings.error(step.name, f"'mode: {run.mode}' of step '{step.name.value}' is not supported yet.")
        if run.is_warm:
            self._findings.error(step.name, f"'warm: true' of step '{step.name.value}' is not supported yet.")
        for text in list(run.named_resources.values())[:1]:
            self._findings.error(text, f"Named resources of step '{step.name.value}' are not supported yet.")


def shell_name(shell: str) -> str:
    """The program behind `#!`: `bash` of `/usr/bin/env -S bash -l`."""
    words = [word.rpartition("/")[2] for word in shell.split()]
    names = [word for word in words if word not in ("env", "-S") and not word.startswith("-")]
    return names[0] if names else ""


def source_word(shell: str) -> str:
    """The command with which that shell reads a file, or nothing if it is no shell. POSIX knows only the dot."""
    name = shell_name(shell)
    if name in ("sh", "dash", "ash"):
        return "."
    return "source" if name in ("bash", "zsh", "ksh", "csh", "tcsh", "fish") else ""


def _name_text(text: Text, what: str, resolver: Resolver) -> str:
    """A step's name: variables put in, parameters as they are written."""
    pieces = resolver.read(text, Where(what, _WITH_PARAMETERS))
    return "".join(piece if isinstance(piece, str) else piece.use.raw for piece in pieces).strip()


def _check_names(spec: Spec, names: Sequence[str], findings: Findings) -> None:
    owners: dict[str, str] = {}
    for step, name in zip(spec.steps, names, strict=True):
        directory = safe_name(name)
        if not directory or re.fullmatch(r"\.{1,2}", directory) or directory in _TAKEN_DIRECTORIES:
            findings.error(step.name, f"The step name '{name}' can't name a directory.", hint="Use another name.")
        elif owners.setdefault(directory, name) != name:
            message = f"Steps '{owners[directory]}' and '{name}' would share the directory '{directory}'."
            findings.error(step.name, message, hint="Rename one of them.")
    for index, name in enumerate(names):
        if name in names[:index]:
            findings.error(spec.steps[index].name, f"There are two steps '{name}'.", hint="Rename one of them.")


def _check_circles(drafts: Sequence[DraftStep], findings: Findings) -> None:
    """Note circles of dependencies, each once, at the step of it that stands first in the file."""
    is_done = [False] * len(drafts)
    for draft in drafts:
        if is_done[draft.index]:
            continue
        trail: list[int] = [draft.index]
        on_trail = {draft.index}
        ahead = [iter((*draft.ordinary, *draft.starred))]
        while ahead:
            parent = next(ahead[-1], None)
            if parent is None:
                ahead.pop()
                on_trail.discard(trail[-1])
                is_done[trail.pop()] = True
            elif parent in on_trail:
                _note_circle(drafts, trail[trail.index(parent) :], findings)
            elif not is_done[parent]:
                trail.append(parent)
                on_trail.add(parent)
                ahead.append(iter((*drafts[parent].ordinary, *drafts[parent].starred)))


def _note_circle(drafts: Sequence[DraftStep], circle: list[int], findings: Findings) -> None:
    first = circle.index(min(circle))
    names = [drafts[index].name for index in (*circle[first:], *circle[:first])]
    shown = " → ".join([*names, names[0]])
    findings.error(drafts[min(circle)].step.name, f"Steps depend on each other in a circle: {shown}.")


def _warn_of_mentions(drafts: Sequence[DraftStep], findings: Findings) -> None:
    """Warn where a script names the workspace of a step that it does not wait for."""
    for draft in drafts:
        if not draft.mentioned - {draft.index}:
            continue
        ancestors = set(_ancestors(drafts, draft.index))
        for piece in (*draft.cmd, *(draft.restart or ())):
            if isinstance(piece, Meant) and piece.meaning is Meaning.STEP_WORKSPACE:
                other = int(piece.argument)
                if other != draft.index and other not in ancestors:
                    message = (
                        f"Step '{draft.name}' names the workspace of '{drafts[other].name}', and does not wait for it."
                    )
                    findings.warn(piece.use.text, message, offset=piece.use.offset)


def _ancestors(drafts: Sequence[DraftStep], index: int) -> Iterator[int]:
    seen = {index}
    ahead = [index]
    while ahead:
        draft = drafts[ahead.pop()]
        for parent in (*draft.ordinary, *draft.starred):
            if parent not in seen:
                seen.add(parent)
                ahead.append(parent)
                yield parent


def _count(text: str, least: int) -> int:
    try:
        number = int(text.strip().replace("_", ""), 0)
    except ValueError:
        raise ValueError(text) from None
    if number < least:
        raise ValueError(text)
    return number
