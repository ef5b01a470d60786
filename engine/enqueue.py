"""Queueing: the one story from a spec's path to a study that workers can claim.

    load → place → check → (a server answers) → workspace → samples → compile → submit → commit

Everything that can be wrong with a spec and with a sample file that is there is found before anything is made on disk,
and nothing is visible to workers before the commit. Converting a CSV and running `generate` are the only work that
grows with the number of samples.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from mrun.engine.errors import Problem, SpecError, WorkspaceError
from mrun.engine.ids import new_study_id
from mrun.engine.plan.compile import check_plan, compile_plan
from mrun.engine.plan.expanded import text_expander
from mrun.engine.plan.model import Plan, SampleTable
from mrun.engine.plan.places import JOURNAL_DIR, Place, place_study
from mrun.engine.plan.render import NodeText
from mrun.engine.plan.samples import SamplesRequest, open_samples, samples_request
from mrun.engine.spec.dump import dump_spec
from mrun.engine.spec.load import load_spec
from mrun.engine.spec.model import Spec, Text, Tree
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store
from mrun.engine.store.views import StepFacts

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
    #: The study whose step queues this one; empty: a person does.
    parent_study: str = ""


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
    #: Where the nodes that nothing depends on, and that have one sample, will print to; the first few.
    last_outputs: tuple[str, ...]
    warnings: tuple[str, ...]


class Checked(msgspec.Struct, frozen=True):
    """A spec in which nothing wrong was found. Nothing was made or changed."""

    spec: Spec
    place: Place
    request: SamplesRequest | None
    warnings: tuple[str, ...]


def check(order: Order, environment: Mapping[str, str], cwd: str) -> Checked:
    """Find everything that is wrong, without a server and without making anything.

    A sample file that is there is looked at; a large text table only where it begins to be converted.

    Raises:
        SpecError: with all problems, in file order.
    """
    checked = _check_spec(order, environment, cwd)
    if checked.request is not None:
        _check_given_samples(checked.request)
    return checked


def queues_of(order: Order, environment: Mapping[str, str], cwd: str) -> tuple[str, ...]:
    """The queues that a spec's steps use, sorted. Makes and changes nothing. Raises as `check`, but not for samples."""
    checked = _check_spec(order, environment, cwd)
    columns = checked.request.columns if checked.request else ()
    # Queues do not depend on samples: any table of the right width will do.
    table = SampleTable("npy", "", 1, columns, 0, 0) if checked.request else None
    return _queue_names(compile_plan(checked.spec, checked.place, table))


def prepare(checked: Checked) -> Plan:
    """Make the workspace and the sample table, and compile the plan.

    If it raises, the workspace is gone again, unless `generate` has run: what it made may be dear, and tells what went
    wrong.

    Raises:
        SpecError: the sample file is unfit, or `generate` failed.
        WorkspaceError: the workspace can't be made.
    """
    place = _make_workspace(checked.place)
    try:
        _keep_spec(checked.spec, place)
        samples = None
        if checked.request is not None:
            request = samples_request(checked.spec, place)
            assert request is not None
            samples = _make_samples(request, place)
        return compile_plan(checked.spec, place, samples)
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
    study = new_study_id()
    fields = await store.submit(study, plan, seal)
    await store.commit(study, fields, await _study_facts(store, study, plan, order))
    return Queued(
        study=study,
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
    for index, node in enumerate(plan.nodes):
        if index in parents or node.step in barred or plan.size(plan.steps[node.step]) != 1:
            continue
        text = NodeText(plan, index)
        yield os.path.join(text.directory, f"{text.instance_name}.out")
        found += 1
        if found == _LAST_OUTPUTS_MOST:
            return


async def _study_facts(store: Store, study: str, plan: Plan, order: Order) -> list[str | int | bytes]:
    queues: dict[int, set[str]] = {step.index: set() for step in plan.steps}
    for node in plan.nodes:
        queues[node.step].add(node.queue)
    steps = [
        StepFacts(step.name, step.node_count, plan.size(step), tuple(sorted(queues[step.index]))) for step in plan.steps
    ]
    classes = {step.resource_class: step.walltime_s or 0 for step in plan.steps}
    root = await store.call("HGET", store.keys.study(order.parent_study), "root") if order.parent_study else None
    return [
        *("name", plan.name, "workspace", plan.workspace, "spec_path", plan.spec_path, "user", getpass.getuser()),
        *("root", root or study, "priority", 0, "nodes_left", len(plan.nodes), "step_count", len(steps)),
        *("steps", msgspec.json.encode(steps), "class_count", len(classes)),
        *("walltimes", msgspec.json.encode([classes[number] for number in sorted(classes)])),
        *("queues", ",".join(_queue_names(plan))),
    ]


def _sentence(problem: Problem) -> str:
    return f"{problem.where}: {problem.message}" if problem.where else problem.message


def _check_spec(order: Order, environment: Mapping[str, str], cwd: str) -> Checked:
    spec, problems = load_spec(order.spec_path)
    place = place_study(
        spec,
        variables=order.variables,
        output_path=order.output_path,
        now=datetime.now(),
        environment=environment,
        cwd=cwd,
    )
    warnings = check_plan(spec, place)
    request = samples_request(spec, place)
    return Checked(spec, place, request, (*(_sentence(problem) for problem in problems), *warnings))


def _queue_names(plan: Plan) -> tuple[str, ...]:
    return tuple(sorted({node.queue for node in plan.nodes}))


def _check_given_samples(request: SamplesRequest) -> None:
    """A file that is there already is looked at before anything is made: a wrong one changes nothing."""
    path = _existing(request)
    if path is None and request.generate is None:
        tried = " and ".join(f"'{path}'" for path in request.paths)
        hint = "Correct merlin.samples.file, or give merlin.samples.generate.cmd to make it."
        raise SpecError([Problem(f"There is no sample file; looked for {tried}.", hint=hint)])
    if path is not None and (path.endswith(".npy") or os.path.getsize(path) <= _PREREAD_BYTES):
        with tempfile.TemporaryDirectory(prefix="mrun-") as directory:
            open_samples(path, request.columns, directory)


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


def _keep_spec(spec: Spec, place: Place) -> None:
    """Three copies: as it was written; with what `--vars` said; with all put in that holds for the study."""
    stem = os.path.join(place.info_dir, Path(spec.path).stem)
    spoken = _as_ordered(spec.tree, place)
    _write(Path(f"{stem}.orig.yaml"), spec.original)
    _write(Path(f"{stem}.partial.yaml"), dump_spec(spoken).encode())
    _write(Path(f"{stem}.expanded.yaml"), dump_spec(spoken, text_expander(spec, place)).encode())


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


def _make_samples(request: SamplesRequest, place: Place) -> SampleTable:
    path = _existing(request)
    if path is None:
        _generate(request, place)
        path = _existing(request)
    if path is None:
        raise SpecError([Problem(f"merlin.samples.generate.cmd ended well, but made no '{request.paths[0]}'.")])
    return open_samples(path, request.columns, place.info_dir)


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
