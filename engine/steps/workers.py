"""`merlin.resources.workers`: which workers a spec asks for: with how many slots, on which queues, launched how."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from mrun.engine.language.findings import Findings
from mrun.engine.language.resolve import Resolver
from mrun.engine.nearest import nearest_hint
from mrun.engine.plan.model import Plan
from mrun.engine.spec.model import Spec, Text, WorkerSettings
from mrun.engine.steps.launches import read_launch
from mrun.launchers.worker_launch import HERE, WorkerLaunch

#: The worker of the steps that no other one covers.
DEFAULT_WORKER = "default_worker"
_ALL = "all"
#: Options of Celery's worker that say how many processes it has; the first of `--autoscale`'s numbers is the most.
_SLOTS = ("-c", "--concurrency", "--autoscale")
#: Options that mean nothing here: mrun never takes more than it runs.
_MEANINGLESS = ("-O", "--optimization", "--prefetch-multiplier")


class WorkerOrder(msgspec.Struct, frozen=True):
    """A worker to start. `slots` is None where the spec does not say. On several nodes, it is one on each of them."""

    name: str
    queues: tuple[str, ...]
    slots: int | None = None
    launch: WorkerLaunch = WorkerLaunch()


class WorkerOrders(msgspec.Struct, frozen=True):
    """The workers to start on this machine, and the names of those that belong on others."""

    here: tuple[WorkerOrder, ...]
    elsewhere: tuple[str, ...]
    warnings: tuple[str, ...]


class _Entry(msgspec.Struct, frozen=True):
    name: str
    steps: frozenset[str]
    slots: int | None = None
    machines: tuple[str, ...] = ()
    launch: WorkerLaunch = WorkerLaunch()


class Workers(msgspec.Struct, frozen=True):
    """The workers that a spec lists, how one is launched that it does not list, and warnings about them."""

    entries: tuple[_Entry, ...]
    default_launch: WorkerLaunch
    warnings: tuple[str, ...] = ()


def order_workers(workers: Workers, plan: Plan, host: str, steps: Collection[str] = ()) -> WorkerOrders:
    """The workers of a spec, in file order.

    Args:
        host: this machine's name.
        steps: only workers of these, and only their queues; empty: of all.
    """
    names = [step.name for step in plan.steps]
    queues = {name: sorted({node.queue for node in plan.nodes if names[node.step] == name}) for name in names}
    left = frozenset(names).difference(*(one.steps for one in workers.entries))
    rest = [_Entry(DEFAULT_WORKER, left, launch=workers.default_launch)] if left else []
    jobs = frozenset(step.name for step in plan.steps if step.job)
    wanted = frozenset(steps or names)
    entries = [one for one in (*workers.entries, *rest) if one.steps & wanted]
    here = [one for one in entries if is_here(one.machines, host)]
    orders = tuple(
        WorkerOrder(one.name, _queues(names, one.steps & wanted, queues), one.slots, _launch(one, jobs)) for one in here
    )
    return WorkerOrders(orders, tuple(one.name for one in entries if one not in here), workers.warnings)


def read_workers(spec: Spec, resolver: Resolver, names: Sequence[str]) -> Workers:
    """The workers that the spec lists, noting what is wrong with them.

    Args:
        names: of the steps, expanded.
    """
    findings = resolver.findings
    known_warnings = findings.warnings

    def texts(given: Iterable[Text], what: str) -> list[tuple[Text, str]]:
        return [(text, resolver.study_text(text, what).strip()) for text in given]

    def entry(settings: WorkerSettings) -> _Entry:
        own_name = resolver.study_text(settings.name, "the name of a worker").strip()
        owner = f"worker '{own_name}'"
        listed = texts(settings.steps, f"steps of {owner}")
        for text, name in listed:
            if name not in names and name != _ALL:
                hint = nearest_hint(name, [*names, _ALL])
                findings.error(text, f"The {owner} lists '{name}', which is no step.", hint=hint)
        is_of_all = any(name == _ALL and _ALL not in names for _, name in listed)
        covered = frozenset(names if is_of_all else [name for _, name in listed])
        slots = _slots(settings.args, resolver.study_text(settings.args, f"args of {owner}"), owner, findings)
        machines = tuple(name for _, name in texts(settings.machines, f"machines of {owner}"))
        return _Entry(own_name, covered, slots, machines, read_launch(spec, settings, resolver, findings))

    default_launch = read_launch(spec, None, resolver, findings)
    entries = tuple(entry(settings) for settings in spec.workers)
    return Workers(entries, default_launch, findings.warnings[len(known_warnings) :])


def _launch(entry: _Entry, jobs: Collection[str]) -> WorkerLaunch:
    """As the spec says; but who only submits jobs needs no allocation for that."""
    is_of_jobs = bool(entry.steps) and entry.steps <= frozenset(jobs)
    return msgspec.structs.replace(entry.launch, nodes=HERE) if is_of_jobs else entry.launch


def is_here(machines: Sequence[str], host: str) -> bool:
    """Whether a worker may start on that host: its name or a prefix of it is listed, or nothing is."""
    return not machines or any(host.startswith(machine) for machine in machines if machine)


def _queues(names: Sequence[str], steps: Collection[str], queues: Mapping[str, list[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(queue for name in names if name in steps for queue in queues[name]))


def _slots(place: Text, args: str, owner: str, findings: Findings) -> int | None:
    """The number of processes among Celery's options; every other option is named in a warning."""
    try:
        words = shlex.split(args)
    except ValueError as error:
        findings.error(place, f"args of {owner} can't be read: {error}.", hint="Close every quote.")
        return None
    slots: dict[str, int] = {}
    while words:
        option, value = _option(words)
        if option in _SLOTS:
            number = value.partition(",")[0].strip()
            if not number.isdigit() or int(number) < 1:
                message = f"{option} of {owner} must be a number of processes, and '{value}' is not."
                findings.error(place, message, hint=f"Write args: {option} 4, for example.")
            else:
                slots[option] = int(number)
        elif option not in _MEANINGLESS:
            findings.warn(place, f"'{option}' among the args of {owner} has no effect in mrun.")
    # Where both are given, Celery scales.
    return slots.get("--autoscale", next(iter(slots.values()), None))


def _option(words: list[str]) -> tuple[str, str]:
    """The next option and its value, taken from the front; `-c4`, `-c 4`, `--concurrency=4` and `--concurrency 4`."""
    word = words.pop(0)
    if word.startswith("--") and "=" in word:
        option, _, value = word.partition("=")
        return option, value
    if word[:2] in ("-c", "-O") and len(word) > 2 and not word.startswith("--"):
        return word[:2], word[2:].removeprefix("=")
    if word.startswith("-") and words and not words[0].startswith("-"):
        return word, words.pop(0)
    return word, ""
