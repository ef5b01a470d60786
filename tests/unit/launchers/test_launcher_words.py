"""The words that stand for `$(LAUNCHER)`, one row for each rule of each launcher."""

from __future__ import annotations

import pytest

from mrun.launchers.find import BUILT_IN, prefix_named
from mrun.launchers.resources import Resources, clock

ALL = Resources(
    nodes="2",
    procs="8",
    cores_per_task="4",
    gpus_per_task="1",
    gpus="8",
    walltime_s=223_384,
    is_exclusive=True,
    bind="packed:4",
    distribution="packed",
    resource_sets="3",
    exit_on_error="0",
    has_mpiexec=True,
)
PAIR = Resources(nodes="2", procs="8")


@pytest.mark.parametrize(
    ("batch_type", "asked", "expected"),
    [
        ("slurm", ALL, "srun -N 2 -n 8 -c 4 --gpus-per-task 1 --gpus 8 -t 62:03:04 --exclusive"),
        ("slurm", PAIR, "srun -N 2 -n 8"),
        ("slurm", Resources(procs="8"), "srun -n 8"),
        ("slurm", Resources(walltime_s=5400), "srun -t 01:30:00"),
        ("lsf-srun", ALL, "srun -N 2 -n 8 -c 4 --gpus-per-task 1 --gpus 8 -t 62:03:04 --exclusive"),
        ("flux", ALL, "flux run -N 2 -n 8 -c 4 -g 1 -t 223384.0s --exclusive"),
        ("flux", PAIR, "flux run -N 2 -n 8"),
        ("flux", Resources(walltime_s=90.5), "flux run -t 90.5s"),
        ("lsf", ALL, "jsrun --np 8 --nrs 3 -b packed:4 -d packed -X 0 -g 1 -c 4"),
        ("lsf", PAIR, "jsrun --np 8 --nrs 2 -b rs -d plane:4 -X 1"),
        ("lsf", Resources(procs="3"), "jsrun --np 3 --nrs 1 -b rs -d plane:3 -X 1"),
        ("lsf", Resources(nodes="4", procs="2"), "jsrun --np 2 --nrs 4 -b rs -d plane:1 -X 1"),
        ("lsf", Resources(nodes="4"), "jsrun --np 4 --nrs 4 -b rs -d plane:1 -X 1"),
        ("lsf", Resources(gpus="2"), "jsrun --np 1 --nrs 1 -b rs -d plane:1 -X 1 -g 2"),
        ("lsf", Resources(nodes="$N", procs="$P"), "jsrun --np $P --nrs $N -b rs -d plane:$(($P / $N)) -X 1"),
        ("pbs", ALL, "mpiexec -n 8"),
        ("pbs", Resources(nodes="2"), "mpiexec -n 2"),
        ("pbs", Resources(), "mpiexec -n 1"),
        ("local", ALL, "mpiexec -n 8"),
        ("local", PAIR, ""),
        ("local", Resources(procs="1", has_mpiexec=True), ""),
        ("local", Resources(nodes="2", has_mpiexec=True), "mpiexec -n 2"),
        ("local", Resources(), ""),
    ],
)
def test_words_of_a_launcher(batch_type, asked, expected):
    assert " ".join(prefix_named(batch_type).words(asked)) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1, "00:00:01"), (59.2, "00:01:00"), (90, "00:01:30"), (37_800, "10:30:00"), (223_384, "62:03:04")],
)
def test_walltimes_as_a_clock_shows_them(seconds, expected):
    assert clock(seconds) == expected


@pytest.mark.parametrize("batch_type", BUILT_IN)
def test_a_launcher_knows_what_it_makes_flags_of(batch_type):
    # Given everything, each field that is left out changes the words if, and only if, the launcher knows it.
    prefix = prefix_named(batch_type)
    own = {"mpiexec": {"gpus"}, "jsrun": {"gpus"}}  # gpus per task come before gpus there
    whole = prefix.words(ALL)
    for field in set(Resources.__struct_fields__) - {"has_mpiexec"}:
        rest = {name: getattr(ALL, name) for name in Resources.__struct_fields__ if name != field}
        if field not in prefix.knows:
            assert prefix.words(Resources(**rest)) == whole, field
        elif field not in own.get(whole[0], ()) and whole[0] not in ("mpiexec", "jsrun"):
            assert prefix.words(Resources(**rest)) != whole, field
