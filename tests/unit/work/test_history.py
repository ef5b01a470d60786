"""Journals to fates, and fates to what a later run begins with."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mrun.engine.errors import NotFoundError, WorkspaceError
from mrun.engine.plan.model import Plan
from mrun.engine.workspace.history import (
    UNFINISHED,
    Fate,
    Selection,
    past_of,
    read_fates,
    select,
    without,
)
from mrun.engine.workspace.journal import Claimed, Header, JournalWriter, Record, Settled, Void
from mrun.engine.workspace.run_base import write_base
from tests.store.plans import S, make_plan

N, B, F, X, XB = Fate.NONE, Fate.BEGUN, Fate.FINISHED, Fate.FAILED, Fate.FAILED_BLOCKING


def plan_in(directory: Path, **options: object) -> Plan:
    plan = make_plan(6, S("a", options=options), S("f", False, after=("a",)))
    (directory / "mrun_info").mkdir(exist_ok=True)
    return msgspec.structs.replace(plan, workspace=str(directory))


def write(plan: Plan, worker: str, *records: Record) -> None:
    path = Path(plan.workspace, "mrun_info", "journal", f"{worker}.journal")
    writer = JournalWriter(path, Header(1, "s", worker, "h", 0.0))
    for record in records:
        writer.write(record)
    writer.close()


def claimed(number: int, lo: int, hi: int, node: int = 0) -> Claimed:
    return Claimed(number, node, lo, hi, 0, 0.0)


def settled(number: int, first: int, *states: str, codes: tuple[int, ...] | None = None) -> Settled:
    return Settled(number, first, states, codes or (0,) * len(states), (1,) * len(states))


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], [N, N, N, N, N, N]),
        ([claimed(1, 0, 6)], [B, N, N, N, N, N]),
        ([claimed(1, 0, 6), settled(1, 0, "finished", "finished")], [F, F, B, N, N, N]),
        ([claimed(1, 0, 3), settled(1, 0, "finished", "failed", "finished", codes=(0, 1, 0))], [F, X, F, N, N, N]),
        ([claimed(1, 0, 2), settled(1, 0, "failed", "failed", codes=(106, 102))], [XB, XB, N, N, N, N]),
        ([claimed(1, 0, 2), settled(1, 0, "cancelled", "retry")], [B, B, N, N, N, N]),
        # A sample that was run again by a later claim is what that one says, in whatever order the files come
        ([claimed(5, 1, 2), settled(5, 1, "finished"), claimed(2, 0, 2), settled(2, 0, "retry", "retry")],
         [B, F, N, N, N, N]),
        # What was written of a lost claim from some sample on does not count
        ([claimed(1, 0, 4), settled(1, 0, "finished", "finished"), settled(1, 2, "finished"), Void(1, 2)],
         [F, F, B, N, N, N]),
        # Another plan's journal, put here by somebody
        ([claimed(1, 0, 9), settled(1, 0, *["finished"] * 9), claimed(2, 0, 1, node=7)], [N, N, N, N, N, N]),
    ],
)  # fmt: skip
def test_journals_tell_what_samples_came_to(tmp_path: Path, records: list[Record], expected: list[Fate]) -> None:
    plan = plan_in(tmp_path)
    write(plan, "w", *records)
    fates, _ = read_fates(plan)
    assert fates[0].tolist() == expected


def test_failure_that_its_step_calls_blocking_is_one(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, on_failure="skip")
    write(plan, "w", claimed(1, 0, 1), settled(1, 0, "failed", codes=(1,)))
    assert read_fates(plan)[0][0][0] == XB


def test_journals_of_several_workers_are_one_history(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    write(plan, "w1", claimed(3, 0, 2), settled(3, 0, "finished", "finished"))
    write(plan, "w2", claimed(9, 4, 6), settled(9, 4, "finished", "failed", codes=(0, 1)))
    fates, since = read_fates(plan)
    assert (fates[0].tolist(), since) == ([F, F, N, N, F, X], 9)


def test_later_run_begins_with_its_base_and_older_claims_do_not_count(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    write(plan, "w", claimed(3, 0, 6), settled(3, 0, *["finished"] * 6))
    fates, since = read_fates(plan)
    write_base(plan, 2, [np.array([F, F, N, N, F, F], np.uint8), fates[1]], since)
    write(plan, "w2", claimed(7, 2, 3), settled(7, 2, "failed", codes=(1,)))
    again, since = read_fates(plan, 2)
    assert (again[0].tolist(), since) == ([F, F, X, N, F, F], 7)


def test_samples_added_to_a_later_run_have_their_own_ends(tmp_path: Path) -> None:
    # Given a second run that began with six samples, two of them to be run
    plan = plan_in(tmp_path)
    write_base(plan, 2, [np.array([F, F, F, F, N, N], np.uint8), np.array([N], np.uint8)], 3)

    # When it got two more while it ran, and a claim spans old ones and new ones
    assert plan.samples is not None
    grown = replace(plan, samples=replace(plan.samples, count=8))
    write(grown, "w", claimed(7, 4, 8), settled(7, 4, "finished", "finished", "finished", "failed", codes=(0, 0, 0, 1)))

    # I expect the end of each
    assert read_fates(grown, 2)[0][0].tolist() == [F, F, F, F, F, F, F, X]


def test_missing_or_damaged_base_is_an_error_with_its_path(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    with pytest.raises(WorkspaceError, match=r"run-2\.npz"):
        read_fates(plan, 2)
    (tmp_path / "mrun_info" / "run-2.npz").write_bytes(b"PK\x03\x04 not a zip file")
    with pytest.raises(WorkspaceError, match=r"run-2\.npz"):
        read_fates(plan, 2)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (UNFINISHED, ([1, 1, 0, 1, 1, 1], [1])),
        (Selection((X, XB)), ([0, 0, 0, 1, 1, 0], [0])),
        (Selection(tuple(Fate), ("a",)), ([1, 1, 1, 1, 1, 1], [0])),
        (Selection(tuple(Fate), ("f",)), ([0, 0, 0, 0, 0, 0], [1])),
        (Selection(tuple(Fate), (), ((1, 3), (5, 6))), ([0, 1, 1, 0, 0, 1], [0])),
        (Selection((X, XB), ("a",), ((0, 4),)), ([0, 0, 0, 1, 0, 0], [0])),
    ],
)
def test_selection_means_samples(tmp_path: Path, selection: Selection, expected: tuple[list[int], list[int]]) -> None:
    fates = [np.array([N, B, F, X, XB, N], np.uint8), np.array([N], np.uint8)]
    chosen = select(plan_in(tmp_path), fates, selection)
    assert tuple(own.astype(int).tolist() for own in chosen) == expected


def test_step_that_is_not_there_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no step 'aa'"):
        select(plan_in(tmp_path), [np.zeros(6, np.uint8), np.zeros(1, np.uint8)], Selection(tuple(Fate), ("aa",)))


@given(fates=st.lists(st.sampled_from([N, F, X, XB]), min_size=1, max_size=40), data=st.data())
def test_past_holds_every_sample_that_keeps_its_end(fates: list[Fate], data: st.DataObject) -> None:
    own = np.array(fates, np.uint8)
    runs = np.array(data.draw(st.lists(st.booleans(), min_size=len(fates), max_size=len(fates))))
    kept = without([own], [runs])
    found = np.zeros(len(fates), np.uint8)
    for name, value in past_of(kept):
        node, chunk, kind = name.split(":")
        count, _, bitmap = value.partition(b" ")
        bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=len(fates)) if bitmap else np.ones(len(fates), int)
        assert (node, chunk, int(count)) == ("0", "0", int(bits.sum()))
        found[bits == 1] = {"past": F, "pastf": X, "pastb": XB}[kind]
    assert found.tolist() == np.where(runs, N, own).tolist()


@given(fates=st.lists(st.sampled_from([N, B, F, X, XB]), min_size=1, max_size=40), data=st.data())
def test_what_never_ended_and_is_not_to_run_is_left_as_cancelled(fates: list[Fate], data: st.DataObject) -> None:
    own = np.array(fates, np.uint8)
    runs = np.array(data.draw(st.lists(st.booleans(), min_size=len(fates), max_size=len(fates))))
    left = np.zeros(len(fates), np.bool_)
    for name, value in past_of(without([own], [runs]), [runs]):
        if name.endswith(":pastc"):
            bitmap = value.partition(b" ")[2]
            left = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=len(fates)) == 1 if bitmap else ~left
    assert left.tolist() == (~runs & (own <= B)).tolist()


def test_base_with_any_byte_changed_is_one_sentence_or_harmless(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    base = [np.array([F, F, N, N, F, F], np.uint8), np.array([N], np.uint8)]
    write_base(plan, 2, base, 7)
    path = tmp_path / "mrun_info" / "run-2.npz"
    sound = path.read_bytes()
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0xFF]) + sound[at + 1 :])
        with contextlib.suppress(WorkspaceError):
            fates, since = read_fates(plan, 2)
            assert ([own.tolist() for own in fates], since) == ([own.tolist() for own in base], 7)


def test_base_of_an_older_mrun_is_read(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    arrays: dict[str, Any] = {"0": np.array([F, F, N, N, F, F], np.uint8), "1": np.array([X], np.uint8)}
    np.savez_compressed(tmp_path / "mrun_info" / "run-2.npz", since=np.int64(7), **arrays)
    fates, since = read_fates(plan, 2)
    assert ([own.tolist() for own in fates], since) == ([arrays["0"].tolist(), [X]], 7)
