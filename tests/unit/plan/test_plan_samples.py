"""Tables of samples: what is asked for, opening without reading, conversion, reading, and noticing changes."""

from __future__ import annotations

import csv
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrun.engine.errors import SpecError
from mrun.engine.spec.model import Samples, Text
from mrun.engine.table import convert as convert_module
from mrun.engine.table.reader import SampleFileChanged, SampleReader
from mrun.engine.table.samples import open_samples

from .specs import make_spec, resolved, text


def all_values(table):
    reader = SampleReader(table)
    return [reader.values(index) for index in range(table.count)]


def refusal(path, columns, converted_dir):
    with pytest.raises(SpecError) as caught:
        open_samples(path, columns, converted_dir)
    (problem,) = caught.value.problems
    assert str(path) in problem.message
    assert list(converted_dir.glob("*.partial")) == []
    return problem


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("s.npy", ("/area/study_20260304-050607/s.npy", "/area/s.npy")),
        ("/abs/s.npy", ("/abs/s.npy",)),
        ("$(MERLIN_INFO)/$(V).npy", ("/area/study_20260304-050607/merlin_info/1.npy",)),
        ("~/s.npy", ("/home/me/s.npy",)),
    ],
)
def test_where_samples_may_be_and_how_they_are_made(file, expected):
    samples = Samples(text(file), (text("X$(V)"),), generate=text("make $(V) ~ $HOME $(MRUN_INFO) $(date)"))
    spec = make_spec(samples=samples, variables={"V": "1"})
    request = resolved(spec, environment={"HOME": "/home/me"}).request
    assert request is not None
    assert request.paths == expected
    assert request.columns == ("X1",)
    assert request.generate == "make 1 ~ $HOME /area/study_20260304-050607/merlin_info $(date)"
    assert request.shell == "/bin/bash"


def test_a_study_without_samples_asks_for_none():
    spec = make_spec()
    assert resolved(spec).request is None


@pytest.mark.parametrize(
    "array",
    [
        np.array([[0.1, 1e-20], [3.0, np.nan]]),
        np.array([0.1, 2.5], dtype=np.float32),
        np.array([[1, 2], [3, 4]], dtype=np.uint8),
        np.array([True, False]),
        np.array([["a", "é $(X)"], ["", "b c"]]),
        np.asfortranarray(np.arange(6.0).reshape(3, 2)),
        np.array([1, 2], dtype=">i4"),
    ],
)
def test_npy_values_are_the_text_of_their_scalars(tmp_path, array):
    np.save(tmp_path / "s.npy", array)
    rows = array if array.ndim == 2 else array.reshape(-1, 1)
    columns = [f"C{index}" for index in range(rows.shape[1])]
    table = open_samples(tmp_path / "s.npy", columns, tmp_path)
    assert (table.kind, table.count, table.columns) == ("npy", len(rows), tuple(columns))
    assert all_values(table) == [tuple(str(value) for value in row) for row in rows]


def test_bytes_are_decoded(tmp_path):
    np.save(tmp_path / "s.npy", np.array(["é".encode(), b"b"]))
    assert all_values(open_samples(tmp_path / "s.npy", ["X"], tmp_path)) == [("é",), ("b",)]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((2, 2, 2)), "has 3 dimensions"),
        (np.array(1.0), "has 0 dimensions"),
        (np.zeros((0, 1)), "holds no samples"),
        (np.zeros((1, 0)), "holds no samples"),
        (np.zeros(2, dtype=[("a", float)]), "holds values of type"),
        (np.array([object()]), "holds values of type"),
        (np.zeros((2, 3)), "has 3 columns, and column_labels names 1"),
    ],
)
def test_what_is_no_table(tmp_path, array, expected):
    np.save(tmp_path / "s.npy", array, allow_pickle=True)
    assert expected in refusal(tmp_path / "s.npy", ["X"], tmp_path).message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("s.npy", None, "can't be read: No such file or directory"),
        ("s.csv", None, "can't be read: No such file or directory"),
        ("s.npy", b"", "is not a .npy file"),
        ("s.npy", b"1,2\n", "is not a .npy file"),
        ("s.txt", b"1\n", "is neither .npy nor .csv nor .tab"),
        ("s.csv", b"", "holds no samples"),
        ("s.csv", b"# nothing\n\n  \n", "holds no samples"),
        ("s.csv", b"1,2\n", "has 2 columns, and column_labels names 1"),
        ("s.csv", b"1\n\xff\n", "is not UTF-8"),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert expected in refusal(tmp_path / name, ["X"], tmp_path).message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.csv", "X,Y\n1,2\n"),
        ("s.csv", "# made today\n\n x , y \n1,2\n"),
        ("s.csv", '"X","Y"\n1,2\n'),
        ("s.tab", "X\tY\n1\t2\n"),
        ("s.tab", "X  Y\n1 2\n"),
        ("s.csv", "X,Y\n"),
    ],
)
def test_a_header_line_is_refused_for_it_would_be_a_sample(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    problem = refusal(tmp_path / name, ["X", "Y"], tmp_path)
    assert "is the column labels, and a table has no header" in problem.message
    assert problem.hint == "Remove that line, or begin it with '#'."


def test_a_lenient_reading_keeps_a_header_line_as_a_sample(tmp_path):
    (tmp_path / "s.csv").write_text("X,Y\n1,2\n")
    warnings: list[str] = []
    table = open_samples(tmp_path / "s.csv", ["X", "Y"], tmp_path, warnings.append)
    assert all_values(table) == [("X", "Y"), ("1", "2")]
    assert len(warnings) == 1
    assert warnings[0].endswith("a table has no header: it is taken for a sample.")


@pytest.mark.parametrize("first", ["X,1", "Y,X", "# X,Y"])
def test_what_is_no_header_line(tmp_path, first):
    (tmp_path / "s.csv").write_text(f"{first}\n1,2\n")
    assert open_samples(tmp_path / "s.csv", ["X", "Y"], tmp_path).count == (1 if first.startswith("#") else 2)


def test_a_directory_is_refused(tmp_path):
    (tmp_path / "s.npy").mkdir()
    assert "can't be read" in refusal(tmp_path / "s.npy", ["X"], tmp_path).message


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "s.npy"
    np.save(path, np.zeros(100))
    os.truncate(path, path.stat().st_size - 8)
    assert "is shorter than its own header says" in refusal(path, ["X"], tmp_path).message


def test_a_hundred_million_rows_open_without_being_read(tmp_path):
    path = tmp_path / "s.npy"
    count = 100_000_000
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (count, 2)})
        file.truncate(file.tell() + count * 16)
    table = open_samples(path, ["X", "Y"], tmp_path)
    assert table.count == count
    assert SampleReader(table).values(count - 1) == ("0.0", "0.0")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("s.csv", "1, a b ,x\n\n# comment\n2,,é # why\n", [("1", "a b", "x"), ("2", "", "é")]),
        ("s.csv", '"a,b", c,"#d"\r\n"e\n\n#f",g,"h""i"\r\n', [("a,b", "c", "#d"), ("e\n\n#f", "g", 'h"i')]),
        ("s.tab", "1\ta,b\t x\n", [("1", "a,b", "x")]),
        ("s.tab", "# 1\t2\n 1   2 3  # c\n4 5 6", [("1", "2", "3"), ("4", "5", "6")]),
        ("s.csv", 'a"b,5",c\n#d,e,f\n\n1,2,"3"\n', [('a"b', '5"', "c"), ("1", "2", "3")]),
        ("s.csv", "\ufeff1,2,3", [("1", "2", "3")]),
        ("s.csv", "$(X),\\,'\n", [("$(X)", "\\", "'")]),
        ("s.csv", ",,\n,,\n", [("", "", ""), ("", "", "")]),
    ],
)
def test_text_tables(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content.encode())
    table = open_samples(tmp_path / name, "XYZ", tmp_path)
    assert (table.kind, table.count) == ("text", len(expected))
    assert all_values(table) == expected


def test_uneven_rows_are_refused_with_their_line(tmp_path):
    (tmp_path / "s.csv").write_text("# two columns\n1,2\n\n3\n")
    problem = refusal(tmp_path / "s.csv", "XY", tmp_path)
    assert problem.where == f"{tmp_path / 's.csv'}:4"
    assert "has 1 cells, the first row 2" in problem.message
    assert not (tmp_path / convert_module.CELLS_FILE).exists()


_CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=5).map(str.strip)


@settings(max_examples=60)
@given(st.integers(1, 3).flatmap(lambda width: st.lists(st.tuples(*[_CELLS] * width), min_size=1, max_size=8)))
def test_conversion_agrees_with_the_csv_module(tmp_path_factory, rows):
    directory = tmp_path_factory.mktemp("converted")
    with open(directory / "s.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    table = open_samples(directory / "s.csv", [str(index) for index in range(len(rows[0]))], directory)
    assert all_values(table) == rows
    offsets = np.load(table.offsets_path, allow_pickle=False)
    assert offsets.dtype == np.int64
    assert offsets.shape == (len(rows) * len(rows[0]) + 1,)


def test_conversion_in_many_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "_CHUNK_CELLS", 4)
    (tmp_path / "s.csv").write_text("".join(f"{index},x{index}\n" for index in range(101)))
    table = open_samples(tmp_path / "s.csv", "XY", tmp_path)
    assert all_values(table) == [(str(index), f"x{index}") for index in range(101)]


def test_a_changed_or_missing_file_is_noticed(tmp_path):
    path = tmp_path / "s.npy"
    np.save(path, np.zeros(3))
    table = open_samples(path, ["X"], tmp_path)
    reader = SampleReader(table)
    assert reader.values(2) == ("0.0",)
    np.save(path, np.zeros(4))
    for read in (reader.verify, lambda: SampleReader(table).values(0)):
        with pytest.raises(SampleFileChanged, match="was changed after the study was queued"):
            read()
    path.unlink()
    with pytest.raises(SampleFileChanged, match="can't be read: No such file"):
        SampleReader(table).values(0)


@pytest.mark.parametrize("index", [-1, 3])
def test_there_are_no_samples_beyond_the_table(tmp_path, index):
    np.save(tmp_path / "s.npy", np.zeros(3))
    with pytest.raises(IndexError):
        SampleReader(open_samples(tmp_path / "s.npy", ["X"], tmp_path)).values(index)


def test_column_labels_with_unknown_names_are_refused():
    spec = make_spec(samples=Samples(text("s.npy"), (Text("$(NO)", 1, 1),)))
    with pytest.raises(SpecError):
        resolved(spec)
