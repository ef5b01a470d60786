"""`mrun check`: what is wrong with a spec, or what it would become. Needs no server and makes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import msgspec

from mrun.cli.graph import (
    LEGEND,
    MERMAID_EDGES_MOST,
    Edge,
    Graph,
    draw_dot,
    draw_mermaid,
    draw_text,
    node_graph,
    node_names,
    step_graph,
)
from mrun.cli.invocation import Invocation, takes_words
from mrun.cli.options import spec_options
from mrun.cli.orders import SpecWords, check_order, read_order
from mrun.cli.output import Output
from mrun.cli.shown import counted
from mrun.engine.plan.model import Plan, PlanStep, SampleTable
from mrun.engine.resources import Demand
from mrun.engine.steps.compile import compile_plan
from mrun.engine.studies.enqueue import Checked
from mrun.engine.studies.estimate import Estimate, WayEstimate, estimate_study, table_at_hand

_DRAWN: dict[str, Callable[[Graph], Iterator[str]]] = {"text": draw_text, "mermaid": draw_mermaid, "dot": draw_dot}


class CheckWords(SpecWords, frozen=True, kw_only=True):
    """The arguments and options of `mrun check`."""

    has_graph: bool
    form: str | None
    has_nodes: bool


class Forecast(msgspec.Struct, frozen=True):
    """What a good spec would become."""

    plan: Plan
    estimate: Estimate
    #: Where samples are, or will be generated; empty: the study has none.
    samples_path: str
    #: None: they will be generated at queue time.
    sample_count: int | None
    warnings: tuple[str, ...]


@click.command("check")
@spec_options
@click.option("--graph", "has_graph", is_flag=True, help="Draw the graph of steps, with their counts.")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(_DRAWN)),
    help="Language of the graph; mermaid and dot print nothing else. Implies --graph. [default: text]",
)
@click.option("--nodes", "has_nodes", is_flag=True, help="List or draw every node instead of every step.")
@takes_words(CheckWords)
def command(invocation: Invocation, words: CheckWords) -> None:
    """Tell what is wrong with a spec, or what it would become.

    Finds all problems at once, each with its line. For a good spec it shows steps, nodes (a step for each combination
    of its parameters), scripts, queues, and how many files and directories mrun would make. It does not count what the
    steps themselves write. It needs no server and makes nothing. The exit code is 0 for a good spec and 3 for a bad
    one.

    \b
    Examples:
      $ mrun check spec.yaml
      $ mrun check spec.yaml --vars N_SAMPLES=1000 --graph
      $ mrun check spec.yaml --format mermaid      # for a README
      $ mrun check spec.yaml --format dot --nodes  # for Graphviz
    """
    forecast = _forecast(check_order(read_order(words)))
    form, has_nodes = words.form, words.has_nodes
    output = invocation.output
    plan, estimate = forecast.plan, forecast.estimate
    graph = None
    if words.has_graph or form is not None:
        graph = (node_graph if has_nodes else step_graph)(plan, estimate)
    drawn = list(_DRAWN[form or "text"](graph)) if graph else []
    output.warn(forecast.warnings)
    if output.is_json:
        output.data(_as_json(forecast, drawn, has_nodes=has_nodes))
        return
    if form in ("mermaid", "dot"):
        output.say("\n".join(drawn))
        if graph and form == "mermaid" and len(graph.edges) > MERMAID_EDGES_MOST:
            output.note(f"Mermaid draws at most {MERMAID_EDGES_MOST} edges unless its maxEdges is raised.")
        return
    _show(output, forecast)
    if graph:
        output.say()
        output.say("\n".join(drawn))
        if graph.edges:
            output.say()
            output.say(LEGEND)
    elif has_nodes:
        output.say()
        output.table(("node", "queue"), list(zip(node_names(plan), (node.queue for node in plan.nodes), strict=True)))
    output.note("The spec is good; nothing was made.")


def _forecast(checked: Checked) -> Forecast:
    """Compile what would be queued.

    Raises:
        SpecError: the sample file is unfit, or too large for what the steps ask.
    """
    request = checked.request
    table = table_at_hand(request) if request else None
    is_count_known = request is None or table is not None
    if request is not None and table is None:
        # Nodes and edges do not depend on samples: any table of the right width will do.
        table = SampleTable("npy", request.paths[0], 1, request.columns, 0, 0)
    plan = compile_plan(checked.resolved, table)
    warnings = (*checked.warnings, *(text for text in plan.warnings if text not in checked.warnings))
    # A text table is read from its converted copy, which is gone: the file that was given is meant.
    path = _samples_path(checked, is_count_known=is_count_known)
    count = table.count if table and is_count_known else None
    return Forecast(plan, estimate_study(plan, request, is_count_known=is_count_known), path, count, warnings)


def _samples_path(checked: Checked, *, is_count_known: bool) -> str:
    paths = checked.request.paths if checked.request else ("",)
    # The first place is the workspace, which is not there yet: a file that is found lies at the last one.
    return paths[-1] if is_count_known else paths[0]


def _show(output: Output, forecast: Forecast) -> None:
    plan, estimate = forecast.plan, forecast.estimate
    scripts = "scripts: not known yet" if estimate.scripts is None else counted(estimate.scripts, "script")
    edges = step_graph(plan, estimate).edges
    counts = f"{counted(len(plan.steps), 'step')}, {counted(len(edges), 'edge')}, {counted(len(plan.nodes), 'node')}"
    output.say(f"study    {plan.name}: {counts}, {scripts}")
    if forecast.samples_path:
        count = "generated at queue time" if forecast.sample_count is None else f"{forecast.sample_count:,}"
        output.say(f"samples  {count}: {forecast.samples_path}")
    output.say(f"queues   {', '.join(_queues(estimate))}")
    output.say(f"makes    {_made(estimate)}")
    if any(step.uses_samples for step in estimate.steps):
        output.say(f"files    {_ways(estimate)}")
    output.say()
    after = _parents(plan, edges)
    output.table(
        ("step", "queue", "nodes", "samples", "scripts", "a sample takes", "after"),
        [
            (
                *(step.name, ",".join(step.queues), step.nodes),
                *(
                    "" if not step.uses_samples else _known(step.samples),
                    _known(step.scripts),
                    _taken(plan.steps[number]),
                    ", ".join(after[number]),
                ),
            )
            for number, step in enumerate(estimate.steps)
        ],
    )


def _taken(step: PlanStep) -> str:
    """`cpus=4, gpus=1`; by rows of parameters where they differ."""
    return " | ".join(one.text for one in _demands(step))


def _demands(step: PlanStep) -> list[Demand]:
    return list(dict.fromkeys(terms.demand for terms in step.other_terms or (step,)))


def _made(estimate: Estimate) -> str:
    if estimate.files is None or estimate.directories is None:
        known = _files_and_directories(estimate.known_files, estimate.known_directories)
        each = _files_and_directories(estimate.files_per_sample, estimate.directories_per_sample)
        return f"{known}, and for each sample {each}"
    return f"{_files_and_directories(estimate.files, estimate.directories)}: {estimate.inodes:,} inodes"


def _ways(estimate: Estimate) -> str:
    """`full; inodes otherwise: lean from 31,012, packed 17`."""
    others = [f"{way.files} {_inodes(way)}" for way in estimate.ways if way.files != estimate.kept]
    more = ", and up to 2 files more for each sample that prints" if estimate.kept == "lean" else ""
    return f"{estimate.kept}{more}; inodes otherwise: {', '.join(others)} (merlin.samples.files)"


def _inodes(way: WayEstimate) -> str:
    """What samples print is not known: with `lean`, nothing is counted for it."""
    least = "from " if way.files == "lean" else ""
    return f"{least}{way.inodes_per_sample} per sample" if way.inodes is None else f"{least}{way.inodes:,}"


def _files_and_directories(files: int, directories: int) -> str:
    return f"{counted(files, 'file')} and {counted(directories, 'directory', 'directories')}"


def _known(count: int | None) -> int | str:
    return "?" if count is None else count


def _queues(estimate: Estimate) -> list[str]:
    return sorted({queue for step in estimate.steps for queue in step.queues})


def _parents(plan: Plan, edges: Sequence[Edge]) -> list[list[str]]:
    """`sim (each)`, for every step."""
    parents: list[list[str]] = [[] for _ in plan.steps]
    for edge in edges:
        parents[edge.child].append(f"{plan.steps[edge.parent].name} ({edge.kind})")
    return parents


def _as_json(forecast: Forecast, drawn: list[str], *, has_nodes: bool) -> dict[str, Any]:
    plan, estimate = forecast.plan, forecast.estimate
    value: dict[str, Any] = {
        "name": plan.name,
        "spec_path": plan.spec_path,
        "step_count": len(plan.steps),
        "node_count": len(plan.nodes),
        "samples_path": forecast.samples_path or None,
        "sample_count": forecast.sample_count if forecast.samples_path else 0,
        "is_generated": bool(forecast.samples_path) and forecast.sample_count is None,
        "queues": _queues(estimate),
        **{name: item for name, item in msgspec.to_builtins(estimate).items() if name != "steps"},
        "steps": [
            {**msgspec.to_builtins(step), "takes": [{**one.amounts, "exclusive": one.is_exclusive} for one in demands]}
            for step, demands in zip(estimate.steps, map(_demands, plan.steps), strict=True)
        ],
        "edges": [
            {"parent": plan.steps[edge.parent].name, "child": plan.steps[edge.child].name, "kind": edge.kind}
            for edge in step_graph(plan, estimate).edges
        ],
        "warnings": forecast.warnings,
    }
    if has_nodes:
        value["nodes"] = [
            {"name": name, "step": plan.steps[node.step].name, "queue": node.queue,
             "each_parents": node.each_parents, "all_parents": node.all_parents}
            for name, node in zip(node_names(plan), plan.nodes, strict=True)
        ]  # fmt: skip
    if drawn:
        value["graph"] = "\n".join(drawn)
    return value
