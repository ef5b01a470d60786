"""A spec is read once: all that is made of a study is made of one record."""

from __future__ import annotations

import os
from pathlib import Path

from mrun.engine.language.resolve import Resolver
from mrun.engine.studies.enqueue import Order, check, prepare

SPEC = """
description: {name: once, description: A study.}
env: {variables: {A: 1}}
study:
- {name: a, description: One., run: {cmd: "echo $(A) $(X)"}}
- {name: b, description: Two., run: {cmd: echo, depends: [a_*]}}
merlin:
  resources: {workers: {w: {steps: [a], nodes: 1}}}
  samples: {file: s.csv, column_labels: [X]}
"""


def count_resolvers(monkeypatch) -> list[Resolver]:
    """The resolvers that are made from here on."""
    made: list[Resolver] = []
    init = Resolver.__init__

    def counted(self, *arguments):
        made.append(self)
        init(self, *arguments)

    monkeypatch.setattr(Resolver, "__init__", counted)
    return made


def order_in(area: Path) -> Order:
    (area / "s.yaml").write_text(SPEC)
    (area / "s.csv").write_text("1\n2\n")
    return Order(str(area / "s.yaml"))


def test_a_queue_builds_one_resolver(tmp_path, monkeypatch):
    made = count_resolvers(monkeypatch)
    prepare(check(order_in(tmp_path), os.environ, str(tmp_path)))
    assert len(made) == 1


def test_a_spec_is_read_again_only_where_its_workspace_was_taken(tmp_path, monkeypatch):
    checked = check(order_in(tmp_path), os.environ, str(tmp_path))
    os.makedirs(checked.place.workspace)
    made = count_resolvers(monkeypatch)
    plan = prepare(checked)
    assert plan.workspace == f"{checked.place.workspace}_2"
    assert len(made) == 1
    expanded = Path(plan.workspace, "merlin_info", "s.expanded.yaml")
    assert expanded.is_file()
