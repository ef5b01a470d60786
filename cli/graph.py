"""The graph of a plan, of steps or of nodes, as a tree of text, as Mermaid, or in the DOT language.

https://mermaid.js.org/syntax/flowchart.html · https://graphviz.org/doc/info/lang.html
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter

import msgspec

from mrun.cli.shown import counted
from mrun.engine.language.tokens import safe_name
from mrun.engine.plan.model import Plan, PlanStep
from mrun.engine.studies.estimate import Estimate, StepEstimate

#: Deeper vertices of a text tree are not indented any more: a chain of 50,000 would be gigabytes of blanks.
_INDENTED_MOST = 40
#: Other parents that are named beside a vertex of a text tree.
_PARENTS_NAMED = 5
#: What Mermaid draws unless its `maxEdges` is raised.
MERMAID_EDGES_MOST = 500

LEGEND = (
    "each: sample by sample · all: after every sample of the node above · barrier: after every sample of all its nodes"
)


class EdgeKind(enum.StrEnum):
    """What a child waits for."""

    EACH = "each"  # sample i for sample i of the parent
    ALL = "all"  # for all samples of the parent's node of the same row
    BARRIER = "barrier"  # for all samples of all nodes of the parent


class Vertex(msgspec.Struct, frozen=True):
    """A step, or a node; or the point in which the edges of a barrier meet (then `counts` is empty)."""

    name: str
    counts: str = ""
    is_barrier: bool = False


class Edge(msgspec.Struct, frozen=True):
    """Between two vertices, by their numbers."""

    parent: int
    child: int
    kind: EdgeKind


class Graph(msgspec.Struct, frozen=True):
    """Without circles."""

    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]


def step_graph(plan: Plan, estimate: Estimate) -> Graph:
    """A vertex for each step; vertices have the steps' numbers."""
    vertices = tuple(Vertex(step.name, _step_counts(step)) for step in estimate.steps)
    return Graph(vertices, tuple(_step_edges(plan)))


def node_graph(plan: Plan, estimate: Estimate) -> Graph:
    """A vertex for each node, with its number, and behind them one for each barrier."""
    names = node_names(plan)
    counts = [_node_counts(step) for step in estimate.steps]
    vertices = [Vertex(name, counts[node.step]) for name, node in zip(names, plan.nodes, strict=True)]
    edges = [
        Edge(parent, child, kind)
        for child, node in enumerate(plan.nodes)
        for kind, parents in ((EdgeKind.EACH, node.each_parents), (EdgeKind.ALL, node.all_parents))
        for parent in parents
    ]
    for barrier in plan.barriers:
        parent, child = plan.steps[barrier.parent], plan.steps[barrier.child]
        edges += [Edge(number, len(vertices), EdgeKind.BARRIER) for number in _node_numbers(parent)]
        edges += [Edge(len(vertices), number, EdgeKind.BARRIER) for number in _node_numbers(child)]
        vertices.append(Vertex(f"all of {parent.name}", is_barrier=True))
    return Graph(tuple(vertices), tuple(edges))


def node_names(plan: Plan) -> list[str]:
    """The instance name of every node, as its files have it."""
    labels = {parameter.name: [safe_name(label) for label in parameter.labels] for parameter in plan.parameters}
    names = []
    for step in plan.steps:
        columns = [labels[name] for name in step.parameters]
        combinations = [".".join(column[row] for column in columns) for row in step.rows]
        names += [f"{step.directory}_{one}" if one else step.directory for one in combinations or [""]]
    return names


def draw_text(graph: Graph) -> Iterator[str]:
    """A line for each vertex, below the parent that is settled last; its other parents are named beside it."""
    parents: list[list[Edge]] = [[] for _ in graph.vertices]
    children: list[list[Edge]] = [[] for _ in graph.vertices]
    for edge in graph.edges:
        parents[edge.child].append(edge)
    depths = _depths(graph)
    for edges in parents:
        if edges:
            last = max(edges, key=lambda edge: depths[edge.parent])
            children[last.parent].append(last)
    # A stack, not recursion: graphs are deeper than Python's stack.
    ahead: list[tuple[int, str, str, Edge | None]] = [
        (number, "", "", None) for number in reversed(range(len(graph.vertices))) if not parents[number]
    ]
    while ahead:
        number, indent, branch, above = ahead.pop()
        yield f"{indent}{branch}{_vertex_line(graph, number, above, parents[number], depths)}"
        if above is not None and depths[number] < _INDENTED_MOST:
            indent += "   " if branch.startswith("└") else "│  "
        below = children[number]
        for position in reversed(range(len(below))):
            corner = "└" if position == len(below) - 1 else "├"
            ahead.append((below[position].child, indent, f"{corner}─{below[position].kind}→ ", below[position]))


def draw_mermaid(graph: Graph) -> Iterator[str]:
    """A flowchart: thin arrows for *each*, thick ones for *all*, dotted ones for barriers."""
    arrows = {EdgeKind.EACH: "-->", EdgeKind.ALL: "==>", EdgeKind.BARRIER: "-.->"}
    yield "flowchart TD"
    for number, vertex in enumerate(graph.vertices):
        text = "<br/>".join(_mermaid_text(part) for part in (vertex.name, vertex.counts) if part)
        yield f'  v{number}(["{text}"])' if vertex.is_barrier else f'  v{number}["{text}"]'
    for edge in graph.edges:
        yield f"  v{edge.parent} {arrows[edge.kind]}|{edge.kind}| v{edge.child}"


def draw_dot(graph: Graph) -> Iterator[str]:
    """A digraph: thin edges for *each*, bold ones for *all*, dashed ones for barriers."""
    styles = {EdgeKind.EACH: "solid", EdgeKind.ALL: "bold", EdgeKind.BARRIER: "dashed"}
    yield "digraph study {"
    yield "  node [shape=box];"
    for number, vertex in enumerate(graph.vertices):
        text = r"\n".join(_dot_text(part) for part in (vertex.name, vertex.counts) if part)
        shape = ", shape=ellipse, style=dashed" if vertex.is_barrier else ""
        yield f'  v{number} [label="{text}"{shape}];'
    for edge in graph.edges:
        yield f'  v{edge.parent} -> v{edge.child} [label="{edge.kind}", style={styles[edge.kind]}];'
    yield "}"


def _step_edges(plan: Plan) -> Iterator[Edge]:
    """All nodes of a step have parents in the same steps: its first one tells them."""
    for step in plan.steps:
        first = plan.nodes[step.first_node]
        for kind, parents in ((EdgeKind.EACH, first.each_parents), (EdgeKind.ALL, first.all_parents)):
            for parent in parents:
                yield Edge(plan.nodes[parent].step, step.index, kind)
        for barrier in plan.barriers:
            if barrier.child == step.index:
                yield Edge(barrier.parent, step.index, EdgeKind.BARRIER)


def _node_numbers(step: PlanStep) -> range:
    return range(step.first_node, step.first_node + step.node_count)


def _step_counts(step: StepEstimate) -> str:
    nodes = counted(step.nodes, "node")
    return f"{nodes} × {_node_counts(step)}" if step.uses_samples else nodes


def _node_counts(step: StepEstimate) -> str:
    if not step.uses_samples:
        return "1 script"
    return "samples" if step.samples is None else counted(step.samples, "sample")


def _depths(graph: Graph) -> list[int]:
    """The longest way from a vertex without parents to each vertex, in edges."""
    parents: dict[int, list[int]] = {number: [] for number in range(len(graph.vertices))}
    for edge in graph.edges:
        parents[edge.child].append(edge.parent)
    depths = [0] * len(graph.vertices)
    for number in TopologicalSorter(parents).static_order():
        depths[number] = max((depths[parent] + 1 for parent in parents[number]), default=0)
    return depths


def _vertex_line(graph: Graph, number: int, above: Edge | None, parents: Sequence[Edge], depths: Sequence[int]) -> str:
    vertex = graph.vertices[number]
    line = f"({vertex.name})" if vertex.is_barrier else f"{vertex.name}  {vertex.counts}"
    # Where indentation no longer tells what it hangs on, its name does.
    others = [edge for edge in parents if edge is not above or depths[number] > _INDENTED_MOST]
    if not others:
        return line
    named = [f"{edge.kind} {graph.vertices[edge.parent].name}" for edge in others[:_PARENTS_NAMED]]
    more = [f"{len(others) - _PARENTS_NAMED} more"] if len(others) > _PARENTS_NAMED else []
    return f"{line}  (after {', '.join([*named, *more])})"


def _mermaid_text(text: str) -> str:
    """Characters that mean something there, as its entity codes."""
    return "".join(f"#{ord(one)};" if one in '#"<>&`' else one for one in text)


def _dot_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
