"""`--samplesfile`, and tables whose width is let pass by `--lenient`."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import numpy as np
import pytest

from mrun.engine.errors import SpecError
from mrun.engine.spec.model import Text
from mrun.engine.table import samples as samples_module
from mrun.engine.table.reader import SampleReader
from mrun.engine.table.samples import bring_samples, open_samples, with_samples_file

from .specs import make_spec

TREE = {"merlin": {"samples": {"file": Text("old.npy"), "column_labels": [Text("X")], "generate": {"cmd": Text("x")}}}}


def test_the_spec_takes_the_copy_and_generates_nothing():
    spec = make_spec(columns=["X"], samples_rest={"generate": Text("make it")})
    spec = with_samples_file(msgspec.structs.replace(spec, tree=TREE), "/data/new.npy")
    assert (spec.samples.file.value, spec.samples.generate) == ("$(MERLIN_INFO)/new.npy", None)
    tree: Any = spec.tree
    assert tree["merlin"]["samples"] == {"file": Text("$(MERLIN_INFO)/new.npy"), "column_labels": [Text("X")]}


def test_a_spec_without_samples_is_refused():
    with pytest.raises(SpecError, match="--samplesfile was given, and the spec has no samples"):
        with_samples_file(make_spec(), "x.npy")


def test_another_kind_of_file_is_refused():
    with pytest.raises(SpecError, match=r"neither .npy nor .csv nor .tab"):
        with_samples_file(make_spec(columns=["X"]), "x.txt")


@pytest.mark.parametrize(("name", "copy"), [("new.npy", "new.npy"), ("a $b.csv", "samples.csv")])
def test_the_file_is_copied(tmp_path, name, copy):
    (tmp_path / name).write_bytes(b"1")
    (tmp_path / "info").mkdir()
    bring_samples(str(tmp_path / name), str(tmp_path / "info"))
    assert os.listdir(tmp_path / "info") == [copy]
    assert not os.path.samefile(tmp_path / name, tmp_path / "info" / copy)


def test_a_large_file_is_linked(tmp_path, monkeypatch):
    monkeypatch.setattr(samples_module, "_LINKED_BYTES", 1)
    (tmp_path / "new.npy").write_bytes(b"1")
    (tmp_path / "link.npy").symlink_to("new.npy")
    (tmp_path / "info").mkdir()
    bring_samples(str(tmp_path / "link.npy"), str(tmp_path / "info"))
    copy = tmp_path / "info" / "link.npy"
    assert os.path.samefile(tmp_path / "new.npy", copy)
    assert not copy.is_symlink()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SpecError, match="can't be copied"):
        bring_samples(str(tmp_path / "new.npy"), str(tmp_path))


@pytest.mark.parametrize("kind", ["npy", "csv", "tab"])
@pytest.mark.parametrize(
    ("labels", "expected", "what"),
    [
        (("A",), ("3",), "those without a label are left out"),
        (("A", "B"), ("3", "4"), ""),
        (("A", "B", "C"), ("3", "4", ""), "labels without a column are empty"),
    ],
)
def test_other_numbers_of_columns_are_let_pass_with_a_warning(tmp_path, kind, labels, expected, what):
    path = tmp_path / f"s.{kind}"
    if kind == "npy":
        np.save(path, np.array([[1, 2], [3, 4]]))
    else:
        path.write_text("1,2\n3,4\n".replace(",", "," if kind == "csv" else "\t"))
    warnings: list[str] = []
    table = open_samples(path, labels, tmp_path, warnings.append)
    assert SampleReader(table).values(1) == expected
    said = f"The sample file has 2 columns, and column_labels names {len(labels)}: {what}."
    assert warnings == ([said] if what else [])
    if what:
        with pytest.raises(SpecError, match="has 2 columns"):
            open_samples(path, labels, tmp_path)
