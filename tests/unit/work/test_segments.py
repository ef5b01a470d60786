"""An index of segments is read as far as it was written, and the highest claim of a sample counts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrun.engine.workspace import segments
from mrun.engine.workspace.outputs import Source
from mrun.engine.workspace.segments import RECORD_BYTES, Packed, SegmentWriter, packed_dir, read_packed, was_begun
from tests.unit.work.turns import turns_during

#: sample, claim, stdout, stderr
Written = tuple[int, int, bytes, bytes]
WRITTEN = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 9), st.binary(max_size=20), st.binary(max_size=20)), max_size=8
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "mrun_info").mkdir()
    return tmp_path


def write(workspace: Path, executions: list[Written], worker: str = "w") -> None:
    async def go() -> None:
        writer = SegmentWriter(str(workspace), worker)
        for sample, claim, out, err in executions:
            fds = [os.memfd_create("stream") for _ in range(2)]
            for fd, data in zip(fds, (out, err), strict=True):
                os.write(fd, data)
            await writer.append(Packed(7, 0, sample, claim, 0, len(out), len(err), 3), *fds)
            for fd in fds:
                os.close(fd)
        writer.close()

    anyio.run(go)


def read(workspace: Path, low: int = 0, high: int = 10**9) -> dict[int, tuple[int, bytes, bytes]]:
    return {
        one.sample: (
            one.claim,
            b"".join(Source(one.path, one.offset, one.out).chunks()),
            b"".join(Source(one.path, one.offset + one.out, one.err).chunks()),
        )
        for one in read_packed(str(workspace), 7, [(low, high)])
    }


def best(executions: list[Written]) -> dict[int, tuple[int, bytes, bytes]]:
    found: dict[int, tuple[int, bytes, bytes]] = {}
    for sample, claim, out, err in executions:
        if sample not in found or found[sample][0] <= claim:
            found[sample] = (claim, out, err)
    return found


@given(st.data(), WRITTEN)
@settings(max_examples=60)
def test_a_segment_and_an_index_cut_at_any_byte_give_what_was_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, executions: list[Written]
) -> None:
    workspace = tmp_path_factory.mktemp("workspace")
    (workspace / "mrun_info").mkdir()
    write(workspace, executions)
    if not executions:
        assert read(workspace) == {}
        return
    # Given an index, and a segment, of which only the first bytes are on the disk
    index, segment = (packed_dir(str(workspace)) / f"w.0.{ending}" for ending in ("idx", "seg"))
    kept_bytes = data.draw(st.integers(0, index.stat().st_size))
    os.truncate(index, kept_bytes)
    segment_bytes = data.draw(st.integers(0, segment.stat().st_size))
    os.truncate(segment, segment_bytes)
    # I expect those executions whose record and whose bytes are whole, and nothing else
    whole, end = [], 0
    for one in executions[: kept_bytes // RECORD_BYTES]:
        end += len(one[2]) + len(one[3])
        if end <= segment_bytes:
            whole.append(one)
    assert read(workspace) == best(whole)


def test_a_damaged_record_is_passed_over(workspace: Path) -> None:
    write(workspace, [(0, 1, b"a", b""), (1, 2, b"b", b""), (2, 3, b"c", b"")])
    index = packed_dir(str(workspace)) / "w.0.idx"
    damaged = bytearray(index.read_bytes())
    damaged[RECORD_BYTES + 30] ^= 1
    index.write_bytes(damaged)
    assert read(workspace) == {0: (1, b"a", b""), 2: (3, b"c", b"")}


def test_the_highest_claim_counts_whoever_wrote_it_and_whenever(workspace: Path) -> None:
    write(workspace, [(0, 9, b"new", b"")], "a")
    write(workspace, [(0, 5, b"lost", b"lost")], "b")
    assert read(workspace) == {0: (9, b"new", b"")}


def test_only_the_samples_that_are_asked_for_are_read(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_BLOCK_SAMPLES", 4)
    write(workspace, [(sample, 1, b"%d" % sample, b"") for sample in range(20)])
    assert list(read(workspace, 3, 11)) == list(range(3, 11))


def test_a_full_segment_is_followed_by_another(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 10)
    write(workspace, [(sample, 1, b"1234", b"56") for sample in range(5)])
    assert len(list(packed_dir(str(workspace)).glob("*.seg"))) == 3
    assert read(workspace) == dict.fromkeys(range(5), (1, b"1234", b"56"))


async def test_after_a_failure_output_goes_to_a_new_segment(workspace: Path) -> None:
    writer = SegmentWriter(str(workspace), "w")
    fd = os.memfd_create("stream")
    os.write(fd, b"text")
    # A stream that is shorter than was said: as on a disk that fails in the middle of a copy
    with pytest.raises(OSError, match="Input/output"):
        await writer.append(Packed(7, 0, 0, 1, 0, 9, 0, 0), fd, fd)
    await writer.append(Packed(7, 0, 0, 2, 0, 4, 0, 0), fd, fd)
    writer.close()
    os.close(fd)
    assert read(workspace) == {0: (2, b"text", b"")}


def test_who_asks_whether_a_sample_was_begun_sees_the_slots_of_all_workers(workspace: Path) -> None:
    def begun(sample: int, claim: int = 99) -> bool:
        return was_begun(str(workspace), 7, sample, claim)

    assert not begun(1)
    writer = SegmentWriter(str(workspace), "w")
    writer.began(0, 7, 1, 5)
    writer.began(3, 7, 2, 6)
    assert (begun(1), begun(2), begun(0), begun(3)) == (True, True, False, False)
    # Not by this very claim
    assert not begun(1, claim=5)
    # A slot that went on has ended what it ran before
    writer.began(0, 7, 8, 7)
    assert not begun(1)
    writer.close()
    assert not begun(2)


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


async def test_long_output_lets_others_have_their_turn_and_is_whole(tmp_path: Path) -> None:
    # Given an output of many pieces, and a short one of another slot that comes meanwhile
    (tmp_path / "mrun_info").mkdir()
    (tmp_path / "long").write_bytes(bytes(range(256)) * (40 << 12))
    (tmp_path / "short").write_bytes(b"short")
    length = (tmp_path / "long").stat().st_size
    writer = SegmentWriter(str(tmp_path), "w")
    with (tmp_path / "long").open("rb") as long, (tmp_path / "short").open("rb") as short:

        async def append_both() -> None:
            async with anyio.create_task_group() as slots:
                for sample, (size, file) in enumerate(((length, long), (5, short))):
                    packed = Packed(7, 0, sample, 1, 0, size, 0, 0)
                    slots.start_soon(writer.append, packed, file.fileno(), file.fileno())

        turns = await turns_during(append_both())
    writer.close()
    # I expect both to be as they were, one behind the other
    assert turns > 20
    first, second = read_packed(str(tmp_path), 7, [(0, 2)])
    with Path(first.path).open("rb") as segment:
        assert segment.read(length) == (tmp_path / "long").read_bytes()
        assert segment.read() == b"short"
    assert (first.offset, second.offset) == (0, length)
