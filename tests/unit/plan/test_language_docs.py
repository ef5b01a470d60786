"""Every example of docs/specs.md is checked as `mrun check` checks it, and says what the page says that it does.

An example is a whole spec, or some of its blocks: those that it leaves out are those of the page's first spec.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from mrun.engine.errors import SpecError
from mrun.engine.plan.model import SampleTable
from mrun.engine.steps.compile import compile_plan
from mrun.engine.studies.enqueue import Checked, Order, check

PAGE = Path(__file__).parents[3] / "docs" / "specs.md"
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
#: The line of a block's key, and all below it.
_BLOCK = re.compile(r"^([a-z][a-z.]*):.*\n(?:^[ #-].*\n|^\n)*", re.MULTILINE)
_SAYS = re.compile(r"# (error|warning|nodes): (.*)\n")


def whole(example: str) -> str:
    """The example with the blocks that it leaves out."""
    given = {block.group(1) for block in _BLOCK.finditer(example)}
    rest = [block.group() for block in _BLOCK.finditer(EXAMPLES[0]) if block.group(1) not in given]
    return example + "".join(rest)


def checked(directory: Path, example: str) -> Checked:
    (directory / "spec.yaml").write_text(whole(example), encoding="utf-8")
    (directory / "samples.csv").write_text("1,2\n3,4\n")
    environment = {"HOME": os.environ.get("HOME", "/"), "PATH": os.defpath}
    return check(Order("spec.yaml"), environment, str(directory))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.split("\n")[0][:60])
def test_an_example_is_good_or_says_what_the_page_says(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = _SAYS.match(example)
    kind, text = said.groups() if said else ("", "")
    if kind == "error":
        with pytest.raises(SpecError) as caught:
            checked(tmp_path, example)
        assert [text in problem.message for problem in caught.value.problems] == [True], caught.value.problems
        return
    good = checked(tmp_path, example)
    assert [text in warning for warning in good.warnings] == ([True] if kind == "warning" else [])
    if kind == "nodes":
        table = SampleTable("npy", "", 2, ("X", "Y"), 0, 0) if good.request else None
        steps = compile_plan(good.resolved, table).steps
        assert ", ".join(f"{step.name} {step.node_count}" for step in steps) == text


def test_the_page_has_examples_of_every_kind():
    kinds = [said.group(1) if (said := _SAYS.match(example)) else "good" for example in EXAMPLES]
    assert {kind: kinds.count(kind) >= least for kind, least in (("good", 12), ("error", 15), ("warning", 3))} == {
        "good": True,
        "error": True,
        "warning": True,
    }
