"""Steps before there are nodes: names, dependencies, and which parameters and samples each of them uses."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence

import msgspec

from mrun.engine.language.findings import Findings
from mrun.engine.language.names import Meaning
from mrun.engine.language.resolve import EVERYWHERE, Pieces, Resolver, Where
from mrun.engine.language.tokens import safe_name
from mrun.engine.nearest import nearest_hint
from mrun.engine.plan.model import JobTerms
from mrun.engine.spec.circles import find_circles
from mrun.engine.spec.model import Spec, Step, Text
from mrun.engine.steps.jobs import as_jobs, check_jobs, read_job_defaults
from mrun.engine.steps.scripts import DraftScripts, read_scripts
from mrun.engine.steps.started import check_started
from mrun.engine.steps.terms import WITH_PARAMETERS, ParameterTable, StepTerms, StepTexts, read_terms
from mrun.engine.steps.warm import read_warm

#: Directories of the workspace that are not steps'.
_TAKEN_DIRECTORIES = frozenset({"merlin_info", "mrun_info"})


class DraftStep(msgspec.Struct, frozen=True):
    """A step, read. Other steps are given by their index."""

    index: int
    step: Step
    name: str
    directory: str
    terms: StepTerms
    scripts: DraftScripts
    queue: Pieces
    own_parameters: frozenset[str]
    #: Steps whose workspace its scripts mention.
    mentioned: frozenset[int]
    ordinary: tuple[int, ...]
    starred: tuple[int, ...]
    uses_samples: bool
    is_warm: bool
    #: inside, step or job.
    mode: str
    #: What is told of the study's jobs, unless the step says otherwise.
    job_defaults: JobTerms


def read_steps(
    spec: Spec, resolver: Resolver, table: ParameterTable, cwd: str, findings: Findings
) -> tuple[DraftStep, ...]:
    """Read every step, noting all that is wrong with it. The resolver learns their expanded names."""
    names = [_name_text(step.name, f"the name of step '{step.name.value}'", resolver) for step in spec.steps]
    _check_names(spec, names, findings)
    resolver.step_numbers.update({name: index for index, name in enumerate(names)})
    sources = [_source_path(source, resolver, cwd, findings) for source in spec.sources]
    reader = _Reader(spec, resolver, table, sources, findings)
    drafts = tuple(reader.read(names[index], index, step) for index, step in enumerate(spec.steps))
    _check_circles(drafts, findings)
    _warn_of_mentions(drafts, findings)
    return drafts


class _Reader:
    """Reads steps."""

    def __init__(
        self, spec: Spec, resolver: Resolver, table: ParameterTable, sources: Sequence[str], findings: Findings
    ) -> None:
        self._spec = spec
        self._resolver = resolver
        self._table = table
        self._sources = sources
        self._findings = findings
        self._job_defaults = read_job_defaults(spec, resolver)

    def read(self, name: str, index: int, step: Step) -> DraftStep:
        run, texts = step.run, StepTexts(step, self._resolver)
        mode = texts.setting("mode")
        has_mpiexec = self._resolver.variables.is_command("mpiexec")
        terms = read_terms(self._spec, step, texts, self._table, self._findings, has_mpiexec=has_mpiexec)
        if mode == "job":
            terms = as_jobs(step, terms, self._findings)
        scripts = read_scripts(self._spec, step, texts, terms, self._sources, self._findings)
        is_warm = read_warm(self._spec, step, texts, terms, scripts, self._findings)
        if mode == "step":
            check_started(step, terms, is_warm=is_warm, findings=self._findings)
        check_jobs(step, terms, mode=mode, is_warm=is_warm, findings=self._findings)
        queue = texts.read(run.task_queue, "task_queue")
        texts.read(step.name, "name", EVERYWHERE)
        texts.read(step.description, "description", EVERYWHERE)
        ordinary, starred = self._dependencies(step, texts)
        meant = scripts.meant
        return DraftStep(
            index=index,
            step=step,
            name=name,
            directory=safe_name(name),
            terms=terms,
            scripts=scripts,
            queue=queue,
            own_parameters=frozenset(texts.parameters),
            mentioned=frozenset(int(p.argument) for p in meant if p.meaning is Meaning.STEP_WORKSPACE),
            ordinary=ordinary,
            starred=starred,
            uses_samples=any(piece.meaning is Meaning.SAMPLE for piece in meant),
            is_warm=is_warm,
            mode=mode,
            job_defaults=self._job_defaults,
        )

    def _dependencies(self, step: Step, texts: StepTexts) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ordinary and starred dependencies, each once, in the order of the file."""
        ordinary: dict[int, None] = {}
        starred: dict[int, None] = {}
        numbers = self._resolver.step_numbers
        for text in step.run.depends:
            name = _name_text(text, texts.what("depends"), self._resolver)
            stems = [stem for end in ("_*", "*") if name.endswith(end) and (stem := name.removesuffix(end)) in numbers]
            if name in numbers:
                ordinary[numbers[name]] = None
            elif stems:
                starred[numbers[stems[0]]] = None
            else:
                hint = nearest_hint(name.rstrip("*").rstrip("_"), numbers, lists_known=False)
                message = f"Step '{step.name.value}' depends on '{name}', which is no step."
                self._findings.error(text, message, hint=hint)
        return tuple(ordinary), tuple(starred)


def _source_path(source: Text, resolver: Resolver, cwd: str, findings: Findings) -> str:
    """A file of env.sources. Scripts run in directories of their own: a relative one is taken from the spec's."""
    text = resolver.study_text(source, "env.sources")
    if not text.strip() or text.startswith(("/", "~", "$")) or len(text.split()) > 1:
        return text
    for directory in (resolver.values["SPECROOT"], cwd):
        path = os.path.normpath(os.path.join(directory, text))
        if os.path.isfile(path):
            return shlex.quote(path)
    message = f"There is no '{text}' beside the spec or here: each script will look for it in its own directory."
    findings.warn(source, message)
    return text


def _name_text(text: Text, what: str, resolver: Resolver) -> str:
    """A step's name: variables put in, parameters as they are written."""
    pieces = resolver.read(text, Where(what, WITH_PARAMETERS))
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
    for circle in find_circles({draft.index: (*draft.ordinary, *draft.starred) for draft in drafts}):
        shown = " → ".join(drafts[index].name for index in (*circle, circle[0]))
        findings.error(drafts[circle[0]].step.name, f"Steps depend on each other in a circle: {shown}.")


def _warn_of_mentions(drafts: Sequence[DraftStep], findings: Findings) -> None:
    """Warn where a script names the workspace of a step that it does not wait for."""
    for draft in drafts:
        if not draft.mentioned - {draft.index}:
            continue
        ancestors = set(_ancestors(drafts, draft.index))
        for piece in draft.scripts.meant:
            if piece.meaning is Meaning.STEP_WORKSPACE:
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
