"""Queueing: the one story from a spec's path to a study that workers can claim.

    load → place → check → (a server answers) → workspace → samples → compile → submit → commit

Everything that can be wrong with a spec and with a sample file that is there is found before anything is made on disk,
and nothing is visible to workers before the commit. Converting a CSV and running `generate` are the only work that
grows with the number of samples.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace

from mrun.engine.errors import MrunError, Problem, SpecError, UsageError, WorkspaceError
from mrun.engine.ids import new_study_id
from mrun.engine.language.findings import Findings
from mrun.engine.language.places import JOURNAL_DIR, Place
from mrun.engine.language.variables import variable_values
from mrun.engine.nearest import nearest_hint
from mrun.engine.plan.model import Plan, SampleTable
from mrun.engine.records import Past
from mrun.engine.resources import Demand, encode_demands
from mrun.engine.spec.dump import dump_spec
from mrun.engine.spec.load import load_spec
from mrun.engine.spec.model import Spec, Text, Tree
from mrun.engine.steps.clones import make_clone
from mrun.engine.steps.compile import compile_plan
from mrun.engine.steps.expanded import text_expander
from mrun.engine.steps.generated import with_generated
from mrun.engine.steps.render import NodeText
from mrun.engine.steps.resolved import Resolved, resolve_at, resolve_study
from mrun.engine.steps.workers import WorkerOrders, order_workers
from mrun.engine.store.questions import root_of
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store
from mrun.engine.store.stored_plan import queues_of_steps
from mrun.engine.store.views import StepFacts
from mrun.engine.table.samples import (
    SamplesRequest,
    bring_samples,
    open_samples,
    with_samples_file,
)
from mrun.engine.workspace.plan_file import run_key, write_plan

#: So much of what a failed `generate` printed is shown.
_TAIL_BYTES = 2000
#: A text table up to this size is read twice: once before anything is made, to see whether all is right with it.
_PREREAD_BYTES = 8 << 20
_SUFFIXES_MOST = 1000
_LAST_OUTPUTS_MOST = 10
#: In merlin_info: that it is there tells that `generate` was begun.
_GENERATE_SCRIPT = "cmd.sh"


class Order(msgspec.Struct, frozen=True):
    """What the user asked for, besides the spec."""

    spec_path: str
    variables: dict[str, str] = {}
    output_path: str | None = None
    #: Unknown keys, and another number of columns than labels, are warnings.
    is_lenient: bool = False
    #: A table that is taken instead of the spec's own file or `generate`.
    samples_file: str | None = None
    #: A Python file that gives the parameter table, and what its function is called with.
    generator: str | None = None
    generator_arguments: dict[str, str] = {}
    #: The study whose step queues this one; empty: a person does.
    parent_study: str = ""
    #: Samples of studies with a higher one are claimed first.
    priority: int = 0
    #: The study whose end it waits for, as the server calls it; empty: none.
    after: str = ""


class Queued(msgspec.Struct, frozen=True):
    """A study that workers can claim."""

    study: str
    name: str
    workspace: str
    queues: tuple[str, ...]
    step_count: int
    node_count: int
    sample_count: int
    #: Nodes times their samples: so many scripts will run.
    script_count: int
    #: Where the nodes that nothing depends on, and that have one sample, will print to; a few, the last one first.
    last_outputs: tuple[str, ...]
    warnings: tuple[str, ...]


class Opening(msgspec.Struct, frozen=True):
    """Which run of which study is queued; and for a later one, what is done already, and which run it replaces."""

    study: str
    run: int = 1
    past: Past = ()
    replaces: str = ""
    #: The highest claim number that the journals of earlier runs name; those of this run are to be higher.
    since: int = 0


class Checked(msgspec.Struct, frozen=True):
    """A spec in which nothing wrong was found. Nothing was made or changed."""

    resolved: Resolved
    warnings: tuple[str, ...]
    order: Order

    @property
    def place(self) -> Place:
        """Where the study will be, unless that is taken by then."""
        return self.resolved.place

    @property
    def request(self) -> SamplesRequest | None:
        """The samples that the study asks for."""
        return self.resolved.request


def check(order: Order, environment: Mapping[str, str], cwd: str) -> Checked:
    """Find everything that is wrong, without a server and without making anything.

    A sample file that is there is looked at; a large text table only where it begins to be converted.

    Raises:
        SpecError: with all problems, in file order.
    """
    return _check_spec(order, environment, cwd, needs_samples=True)


def workers_of(
    order: Order, environment: Mapping[str, str], cwd: str, host: str, steps: Sequence[str] = ()
) -> WorkerOrders:
    """The workers that a spec asks for. Makes and changes nothing. Raises as `check`, but not for samples.

    Args:
        host: this machine's name.
        steps: only workers of these, and only their queues; empty: of all.

    Raises:
        UsageError: there is no such step.
    """
    checked = _check_spec(order, environment, cwd)
    columns = checked.request.columns if checked.request else ()
    # Queues do not depend on samples: any table of the right width will do.
    table = SampleTable("npy", "", 1, columns, 0, 0) if checked.request else None
    plan = compile_plan(checked.resolved, table)
    names = [step.name for step in plan.steps]
    for step in steps:
        if step not in names:
            raise UsageError(f"The spec has no step '{step}'.", hint=nearest_hint(step, names))
    return order_workers(checked.resolved.workers, plan, host, steps)


def prepare(checked: Checked) -> Plan:
    """Make the workspace and the sample table, and compile the plan.

    If it raises, the workspace is gone again, unless `generate` has run: what it made may be dear, and tells what went
    wrong.

    Raises:
        SpecError: the sample file is unfit, or `generate` failed.
        WorkspaceError: the workspace can't be made.
    """
    resolved, place = checked.resolved, _make_workspace(checked.place)
    try:
        if place != checked.place:
            resolved = resolve_at(resolved.spec, place)
        _keep_spec(resolved)
        for clone in resolved.clones:
            make_clone(clone, place.environment, place.cwd)
        samples = None
        warnings: list[str] = []
        if resolved.request is not None:
            if checked.order.samples_file is not None:
                bring_samples(checked.order.samples_file, place.info_dir)
            samples = _make_samples(resolved.request, place, warnings.append if checked.order.is_lenient else None)
        plan = compile_plan(resolved, samples)
        return msgspec.structs.replace(plan, warnings=(*plan.warnings, *warnings))
    except BaseException:
        if not Path(place.info_dir, _GENERATE_SCRIPT).exists():
            # Made by this call, with a name that was free: nothing in it is anybody else's.
            shutil.rmtree(place.workspace, ignore_errors=True)
        raise


async def enqueue(store: Store, seal: Seal, plan: Plan, order: Order, warnings: tuple[str, ...] = ()) -> Queued:
    """Store a plan and commit it. Killed at any moment it leaves a whole study or none.

    Raises:
        BrokerError: the server refused or went away; nothing of the study is visible, and what was laid down expires.
    """
    return await enqueue_run(store, seal, plan, order, Opening(new_study_id()), warnings)


async def enqueue_run(
    store: Store, seal: Seal, plan: Plan, order: Order, opening: Opening, warnings: tuple[str, ...] = ()
) -> Queued:
    """The same for any run of a study. Raises as `enqueue`; UsageError if the run to be replaced has not ended."""
    key = run_key(opening.study, opening.run)
    write_plan(opening.study, opening.run, plan)
    staged = await store.submit(key, plan, seal, opening.past)
    facts = await _study_facts(store, key, plan, order)
    if opening.since:
        facts += ["since", opening.since]
    await store.commit(key, staged, facts, replaces=opening.replaces)
    return queued_study(key, plan, warnings)


def queued_study(key: str, plan: Plan, warnings: tuple[str, ...] = ()) -> Queued:
    """What is told of a study that the server has."""
    return Queued(
        study=key,
        name=plan.name,
        workspace=plan.workspace,
        queues=_queue_names(plan),
        step_count=len(plan.steps),
        node_count=len(plan.nodes),
        sample_count=plan.samples.count if plan.samples else 0,
        script_count=sum(plan.size(plan.steps[node.step]) for node in plan.nodes),
        last_outputs=tuple(_last_outputs(plan)),
        warnings=(*warnings, *(text for text in plan.warnings if text not in warnings)),
    )


def _last_outputs(plan: Plan) -> Iterator[str]:
    parents = {parent for node in plan.nodes for parent in (*node.all_parents, *node.each_parents)}
    barred = {barrier.parent for barrier in plan.barriers}
    found = 0
    for index in reversed(range(len(plan.nodes))):
        node = plan.nodes[index]
        if index in parents or node.step in barred or plan.size(plan.steps[node.step]) != 1:
            continue
        text = NodeText(plan, index)
        yield os.path.join(text.directory, f"{text.instance_name}.out")
        found += 1
        if found == _LAST_OUTPUTS_MOST:
            return


async def _study_facts(store: Store, study: str, plan: Plan, order: Order) -> list[str | int | bytes]:
    steps = step_facts(plan)
    walltimes, demands = plan.class_walltimes_s(), plan.class_demands()
    root = await root_of(store, order.parent_study) if order.parent_study else None
    return [
        *("name", plan.name, "workspace", plan.workspace, "spec_path", plan.spec_path, "user", getpass.getuser()),
        *("root", root or study, "priority", order.priority),
        *("instances_left", len(plan.nodes), "step_count", len(steps)),
        *(("after", order.after) if order.after else ()),
        *("steps", msgspec.json.encode(steps), "class_count", len(walltimes)),
        *("walltimes", msgspec.json.encode(walltimes), "class_steps", msgspec.json.encode(plan.class_steps())),
        # What most studies need is not said: claims would read it again and again.
        *(("demands", encode_demands(demands)) if any(one != Demand() for one in demands) else ()),
        *("queues", ",".join(_queue_names(plan)), "edition", plan.samples.edition if plan.samples else 0),
    ]


def step_facts(plan: Plan) -> list[StepFacts]:
    """What is told of the plan's steps."""
    queues = queues_of_steps(plan)
    return [StepFacts(step.name, step.node_count, plan.size(step), tuple(queues[step.index])) for step in plan.steps]


def _sentence(problem: Problem) -> str:
    return f"{problem.where}: {problem.message}" if problem.where else problem.message


def _check_spec(order: Order, environment: Mapping[str, str], cwd: str, *, needs_samples: bool = False) -> Checked:
    try:
        spec, problems = load_spec(
            order.spec_path, is_lenient=order.is_lenient, has_samples_file=order.samples_file is not None
        )
    except SpecError as error:
        findings = Findings(order.spec_path, error.problems)
        if isinstance(error.partial, Spec):
            # All problems at once: those that are seen in as much of the spec as could be read are told, too.
            with contextlib.suppress(MrunError, LookupError, ValueError, TypeError):
                # What is missing can't be planned with; the problems that were found say what it is.
                _check_loaded(error.partial, findings, order, environment, cwd, needs_samples=needs_samples)
        findings.raise_problems()
        raise
    findings = Findings(order.spec_path)
    checked = _check_loaded(spec, findings, order, environment, cwd, needs_samples=needs_samples)
    findings.raise_problems()
    return replace(checked, warnings=(*(_sentence(problem) for problem in problems), *checked.warnings))


def _check_loaded(
    spec: Spec,
    findings: Findings,
    order: Order,
    environment: Mapping[str, str],
    cwd: str,
    *,
    needs_samples: bool,
) -> Checked:
    """Note all that the plan room finds wrong. Raises only for what other files hold."""
    if order.samples_file is not None:
        spec = with_samples_file(spec, order.samples_file)
    if order.generator is not None:
        variables = variable_values(spec, order.variables, environment)
        spec = with_generated(spec, order.generator, order.generator_arguments, variables)
    resolved = resolve_study(
        spec,
        variables=order.variables,
        output_path=order.output_path,
        now=datetime.now(),
        environment=environment,
        cwd=cwd,
        findings=findings,
    )
    warnings = resolved.warnings
    if needs_samples and resolved.request is not None:
        warnings += tuple(_check_given_samples(spec, resolved.request, order, findings))
    return Checked(resolved, warnings, order)


def _queue_names(plan: Plan) -> tuple[str, ...]:
    return tuple(sorted({node.queue for node in plan.nodes}))


def _check_given_samples(spec: Spec, request: SamplesRequest, order: Order, findings: Findings) -> list[str]:
    """A file that is there already is looked at before anything is made: a wrong one changes nothing.

    Returns:
        Warnings.
    """
    if order.samples_file is not None:
        request = msgspec.structs.replace(request, paths=(os.path.abspath(order.samples_file),))
    path = _existing(request)
    warnings: list[str] = []
    if path is None and request.generate is None:
        tried = " and ".join(f"'{path}'" for path in request.paths)
        hint = "Correct merlin.samples.file, or give merlin.samples.generate.cmd to make it."
        file = spec.samples.file if spec.samples else Text("")
        findings.error(file, f"There is no sample file; looked for {tried}.", hint=hint)
    if path is not None and (path.endswith(".npy") or os.path.getsize(path) <= _PREREAD_BYTES):
        with tempfile.TemporaryDirectory(prefix="mrun-") as directory:
            try:
                open_samples(path, request.columns, directory, warnings.append if order.is_lenient else None)
            except SpecError as error:
                findings.add(error.problems)
    return warnings


def _existing(request: SamplesRequest) -> str | None:
    return next((path for path in request.paths if os.path.isfile(path)), None)


def _make_workspace(place: Place) -> Place:
    """Make the study's directory; on a collision with a suffix. Nothing that is there is touched."""
    try:
        os.makedirs(place.output_path, exist_ok=True)
        for number in range(1, _SUFFIXES_MOST):
            workspace = place.workspace if number == 1 else f"{place.workspace}_{number}"
            try:
                os.mkdir(workspace)
            except FileExistsError:
                continue
            place = msgspec.structs.replace(place, workspace=workspace)
            os.mkdir(place.info_dir)
            os.mkdir(os.path.join(workspace, JOURNAL_DIR))
            return place
    except OSError as error:
        raise WorkspaceError(
            f"The workspace '{place.workspace}' can't be made: {error.strerror}.",
            hint="Choose another place with -o/--output-path, or OUTPUT_PATH in the spec.",
        ) from error
    raise WorkspaceError(f"'{place.workspace}' and {_SUFFIXES_MOST} like it exist already.")


def _keep_spec(resolved: Resolved) -> None:
    """Three copies: as it was written; with what `--vars` said; with all put in that holds for the study."""
    spec, place = resolved.spec, resolved.place
    stem = os.path.join(place.info_dir, Path(spec.path).stem)
    spoken = _as_ordered(spec.tree, place)
    _write(Path(f"{stem}.orig.yaml"), spec.original)
    _write(Path(f"{stem}.partial.yaml"), dump_spec(spoken).encode())
    _write(Path(f"{stem}.expanded.yaml"), dump_spec(spoken, text_expander(resolved)).encode())


def _as_ordered(tree: Tree, place: Place) -> Tree:
    """The tree with the variables that were set from outside: queued again, it is the same study."""
    assert isinstance(tree, dict)
    env = tree.get("env", {})
    if not isinstance(env, dict):
        return tree
    env = dict(env)
    for block in ("variables", "labels"):
        texts = env.get(block)
        if isinstance(texts, dict):
            env[block] = texts | {name: Text(value) for name, value in place.variables.items() if name in texts}
    return tree | {"env": env} if env else tree


def _make_samples(request: SamplesRequest, place: Place, warn: Callable[[str], None] | None) -> SampleTable:
    path = _existing(request)
    if path is None:
        _generate(request, place)
        path = _existing(request)
    if path is None:
        raise SpecError([Problem(f"merlin.samples.generate.cmd ended well, but made no '{request.paths[0]}'.")])
    return open_samples(path, request.columns, place.info_dir, warn)


def _generate(request: SamplesRequest, place: Place) -> None:
    """Run `generate.cmd` in the workspace; its script and output are kept in merlin_info."""
    info = Path(place.info_dir)
    script, out, err = info / _GENERATE_SCRIPT, info / "cmd.out", info / "cmd.err"
    _write(script, f"#!{request.shell}\n\n{request.generate}\n".encode())
    script.chmod(0o755)
    try:
        with out.open("wb") as out_file, err.open("wb") as err_file:
            ended = subprocess.run(
                [script],
                cwd=place.workspace,
                env=place.environment | {"MRUN_PYTHON": sys.executable},
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
                check=False,
            )
    except OSError as error:
        raise SpecError([Problem(f"merlin.samples.generate.cmd can't be run: {error.strerror}.")]) from error
    if ended.returncode != 0:
        tail = (err.read_bytes() or out.read_bytes())[-_TAIL_BYTES:].decode(errors="replace").strip()
        raise SpecError(
            [
                Problem(
                    f"merlin.samples.generate.cmd ended with exit code {ended.returncode}:\n{tail}",
                    hint=f"Its script and output are in '{place.info_dir}'.",
                )
            ]
        )


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise WorkspaceError(f"'{path}' can't be written: {error.strerror}.") from error
