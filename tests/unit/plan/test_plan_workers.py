"""`merlin.resources.workers`: which workers start on a machine, with how many slots, on which queues."""

from __future__ import annotations

import re

import msgspec
import pytest

from mrun.engine.errors import SpecError
from mrun.engine.spec.model import Batch, Text, WorkerSettings
from mrun.engine.steps.workers import is_here, order_workers
from mrun.launchers.worker_launch import WorkerLaunch

from .specs import make_spec, parameter, plan, resolved, step, text

STEPS = (step("a", task_queue="qa"), step("b", task_queue="qb"), step("c", task_queue="qa"))


def worker(name: str, args: str = "", steps: tuple[str, ...] = ("all",), **rest) -> WorkerSettings:
    rest["machines"] = tuple(map(text, rest.get("machines", ())))
    return WorkerSettings(text(name), text(args), tuple(map(text, steps)), **rest)


def ordered(*workers: WorkerSettings, host: str = "node7", only: tuple[str, ...] = (), steps=STEPS, **rest):
    spec = make_spec(*steps, workers=workers, **rest)
    found = order_workers(resolved(spec).workers, plan(spec), host, only)
    return [(one.name, one.queues, one.slots) for one in found.here], found


@pytest.mark.parametrize(
    ("args", "slots", "warned"),
    [
        ("", None, []),
        ("-c 4", 4, []),
        ("-c4", 4, []),
        ("--concurrency 4", 4, []),
        ("--concurrency=4", 4, []),
        ("--autoscale 8,2", 8, []),
        ("--autoscale=8,2", 8, []),
        ("-c 4 --autoscale 8,2", 8, []),
        ("-O fair --prefetch-multiplier 1 --concurrency 2", 2, []),
        ("-Ofair --prefetch-multiplier=1 -c 2", 2, []),
        ("-l INFO -c 2", 2, ["-l"]),
        ("--max-tasks-per-child=3", None, ["--max-tasks-per-child"]),
        ("-E -c 3", 3, ["-E"]),
        ("words", None, ["words"]),
    ],
)
def test_slots_come_from_celerys_options(args, slots, warned):
    workers, found = ordered(worker("w", args))
    assert workers == [("w", ("qa", "qb"), slots)]
    assert [warning.partition(": ")[2] for warning in found.warnings] == [
        f"'{word}' among the args of worker 'w' has no effect in mrun." for word in warned
    ]


@pytest.mark.parametrize("args", ["-c 0", "-c many", "--autoscale x,2", "-c", "-c 'open"])
def test_numbers_that_are_none_are_errors(args):
    with pytest.raises(SpecError, match="worker 'w'"):
        ordered(worker("w", args))


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        # without workers, one for all
        ((), [("default_worker", ("qa", "qb"), None)]),
        ((worker("w"),), [("w", ("qa", "qb"), None)]),
        # what nobody covers gets a worker
        ((worker("w", steps=("a", "c")),), [("w", ("qa",), None), ("default_worker", ("qb",), None)]),
        ((worker("v", steps=("b",)), worker("w", steps=("a", "c"))), [("v", ("qb",), None), ("w", ("qa",), None)]),
        # also what a worker on another machine covers is covered
        ((worker("v", machines=("other",)), worker("w", steps=("b",))), [("w", ("qb",), None)]),
        ((worker("v", "-c 2", ("a", "all")),), [("v", ("qa", "qb"), 2)]),
    ],
)
def test_queues_come_from_steps(workers, expected):
    assert ordered(*workers)[0] == expected


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (("a",), [("v", ("qa",), None)]),
        (("b",), [("w", ("qb",), None)]),
        (("a", "b"), [("v", ("qa",), None), ("w", ("qb",), None)]),
        (("c",), [("default_worker", ("qa",), None)]),
    ],
)
def test_only_workers_of_some_steps(only, expected):
    assert ordered(worker("v", steps=("a",)), worker("w", steps=("b",)), only=only)[0] == expected


@pytest.mark.parametrize(
    ("machines", "is_it"),
    [((), True), (("node7",), True), (("node",), True), (("x", "no"), True), (("node70",), False), (("ode",), False)],
)
def test_machines_are_host_names_or_prefixes(machines, is_it):
    assert is_here(machines, "node7") is is_it


def test_workers_of_other_machines_are_told():
    workers, found = ordered(worker("v", machines=("other",)))
    assert (workers, found.elsewhere) == ([], ("v",))


def test_an_unknown_step_is_an_error_with_the_nearest_name():
    with pytest.raises(SpecError, match="worker 'w' lists 'sm', which is no step") as caught:
        ordered(worker("w", steps=("sm",)), steps=(step("sim"),))
    assert caught.value.problems[0].hint == "Did you mean 'sim'?"


def test_variables_may_stand_in_a_worker():
    variables = {"N": "3", "S": "b", "M": "node"}
    workers, _ = ordered(worker("w", "-c $(N)", ("$(S)",), machines=("$(M)",)), variables=variables)
    assert workers[0] == ("w", ("qb",), 3)


def test_queues_of_every_row_are_listened_to():
    made = step("s", "$(P)", task_queue="q$(P)")
    workers, _ = ordered(worker("w"), steps=(made,), parameters=(parameter("P", [1, 2]),))
    assert workers == [("w", ("q1", "q2"), None)]


BATCH = Batch(
    type=Text("slurm"), nodes=Text("4"), bank=Text("$(BANK)"), walltime=Text("1:30:00"), launch_pre=Text("numactl"),
    launch_args=Text("-l"), flux_exec_workers=Text("no"),
)  # fmt: skip
OF_BATCH = WorkerLaunch(
    type="slurm", nodes="4", bank="physics", walltime_s=5400.0, launch_pre="numactl", launch_args="-l",
    has_flux_exec=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, OF_BATCH),
        # its own number of nodes comes before the block's
        ({"nodes": Text("2")}, msgspec.structs.replace(OF_BATCH, nodes="2")),
        ({"nodes": Text("all")}, msgspec.structs.replace(OF_BATCH, nodes="all")),
        # and its own block takes that one's place
        ({"batch": {"type": Text("flux"), "flux_exec": Text("$(BANK)")}}, WorkerLaunch("flux", flux_exec="physics")),
        ({"batch": {"queue": Text("q")}}, WorkerLaunch("local", queue="q")),
    ],
)
def test_a_worker_is_launched_as_its_batch_says(settings, expected):
    _, found = ordered(worker("w", steps=("a",), **settings), batch=BATCH, variables={"BANK": "physics"})
    assert [one.launch for one in found.here] == [expected, OF_BATCH]


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"type": "slrum"}, "'slrum' is no batch type."),
        ({"type": "slurm", "launch_args": "'-l"}, "launch_args of batch of worker 'w' can't be read"),
        ({"type": "slurm", "nodes": "many"}, "nodes must be a whole number of at least 1, or 'all', not 'many'."),
        ({"type": "slurm", "walltime": "soon"}, "'soon' is not a walltime."),
        ({"type": "flux", "flux_exec_workers": "perhaps"}, "flux_exec_workers must be yes or no, not 'perhaps'."),
    ],
)
def test_what_a_workers_batch_can_not_say(batch, said):
    # Each through a variable: what is wrong as it stands is found when the spec is read.
    variables = {f"V_{key}": value for key, value in batch.items()}
    with pytest.raises(SpecError, match=re.escape(said)):
        ordered(worker("w", batch={key: Text(f"$(V_{key})") for key in batch}), variables=variables)


def test_nodes_that_a_launcher_makes_nothing_of_are_a_warning():
    for batch in ({}, {"type": Text("lsf")}):
        _, found = ordered(worker("w", nodes=Text("2"), batch=batch))
        (warning,) = found.warnings
        kind = "lsf" if batch else "local"
        assert f"'nodes' of worker 'w' has no effect with batch type '{kind}': it starts on one machine." in warning
    _, found = ordered(worker("w", nodes=Text("2"), batch={"type": Text("slurm")}))
    assert found.warnings == ()


def test_a_worker_that_only_submits_jobs_needs_no_allocation():
    steps = (step("a", mode="job"), step("b"))
    _, found = ordered(worker("w", steps=("a",)), steps=steps, batch=Batch(type=Text("slurm")))
    assert [(one.name, one.launch.nodes) for one in found.here] == [("w", "here"), ("default_worker", "")]
