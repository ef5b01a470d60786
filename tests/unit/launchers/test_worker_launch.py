"""The words that start workers where they are wanted, one row for each rule."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from mrun.engine.errors import LauncherError, UsageError
from mrun.launchers.find import enclosing
from mrun.launchers.surroundings import Surroundings
from mrun.launchers.worker_launch import WorkerLaunch, launched
from tests.launchers.kinds import ALLOCATED

SRUN = "srun --nodes={0} --ntasks={0} --ntasks-per-node=1 --overlap --mem=0 --cpu-bind=none --export=ALL"
JSRUN = "jsrun --nrs {} --rs_per_host 1 --tasks_per_rs 1 --cpu_per_rs ALL_CPUS --gpu_per_rs ALL_GPUS --bind none"
HOSTS = {"LSB_JOBID": "12", "LSB_MCPU_HOSTS": "batch 1 h1 40 h2 44"}
WHERE = ALLOCATED | {"lsf": HOSTS, "": {}}


def launch(where: str, **asked: Any):
    found = enclosing(WHERE[where])
    around = Surroundings(found[1], found[0]) if found else Surroundings()
    return launched(WorkerLaunch(**asked), WHERE[where], around, ("W",))


@pytest.mark.parametrize(
    ("where", "asked", "words"),
    [
        # without a scheduler it is the worker itself, wherever that is
        ("", {}, "W"),
        ("slurm", {}, "W"),
        ("slurm", {"nodes": "2", "bank": "b", "launch_pre": "numactl"}, "W"),
        # in an allocation, on all its nodes, or so many
        ("slurm", {"type": "slurm"}, SRUN.format(2) + " W"),
        ("slurm", {"type": "slurm", "nodes": "all"}, SRUN.format(2) + " W"),
        ("slurm", {"type": "slurm", "nodes": "1"}, SRUN.format(1) + " W"),
        ("slurm", {"type": "slurm", "nodes": "here"}, "W"),
        # which is there already: it has its bank, its queue and its end
        ("slurm", {"type": "slurm", "bank": "b", "queue": "q", "walltime_s": 60.0}, SRUN.format(2) + " W"),
        # what a spec says more
        ("slurm", {"type": "slurm", "launch_args": "--mpi=none -l"}, SRUN.format(2) + " --mpi=none -l W"),
        ("slurm", {"type": "slurm", "launch_pre": "numactl -i all"}, "numactl -i all " + SRUN.format(2) + " W"),
        ("slurm", {"type": "slurm", "launch_pre": "A='b c'"}, "env 'A=b c' " + SRUN.format(2) + " W"),
        ("slurm", {"type": "slurm", "worker_launch": "srun -n 7", "launch_args": "-l"}, "srun -n 7 -l W"),
        ("", {"type": "lsf", "worker_launch": "lrun -N 2"}, "lrun -N 2 W"),
        # outside of one, it is made
        (
            "",
            {"type": "slurm", "nodes": "3", "bank": "b", "queue": "q", "qos": "low", "walltime_s": 5400.0},
            "salloc --nodes=3 --exclusive --mem=0 --account=b --partition=q --qos=low --time=01:30:00 "
            + SRUN.format(3)
            + " W",
        ),
        ("", {"type": "slurm"}, "salloc --nodes=1 --exclusive --mem=0 " + SRUN.format(1) + " W"),
        (
            "",
            {"type": "flux", "nodes": "2", "bank": "b", "queue": "q", "walltime_s": 60.0},
            "flux alloc --nodes=2 --exclusive --bank=b --queue=q --time-limit=60.0s flux exec W",
        ),
        # Flux is in an instance, or gets one in the allocation of another
        ("flux", {"type": "flux"}, "flux exec W"),
        ("flux", {"type": "flux", "nodes": "4"}, "flux exec -r 0-3 W"),
        ("flux", {"type": "flux", "flux_path": "/opt/flux/bin/"}, "/opt/flux/bin/flux exec W"),
        ("flux", {"type": "flux", "flux_exec": "flux exec -x 0"}, "flux exec -x 0 W"),
        ("flux", {"type": "flux", "has_flux_exec": False}, "W"),
        ("slurm", {"type": "flux", "flux_start_opts": "-Slog=a"}, SRUN.format(2) + " flux start -Slog=a flux exec W"),
        ("slurm", {"type": "flux", "has_flux_exec": False}, SRUN.format(2) + " flux start W"),
        ("slurm", {"type": "flux", "worker_launch": "flux alloc -N 2"}, "flux alloc -N 2 flux exec W"),
        # LSF's and PBS' workers could not start scripts on other nodes
        ("lsf", {"type": "lsf", "nodes": "2"}, "W"),
        ("pbs", {"type": "pbs", "nodes": "2"}, "W"),
        # but a command may say that they have to be there: LSF keeps the first host for the batch script
        ("lsf", {"type": "lsf", "nodes": "all", "is_told": True}, JSRUN.format(2) + " W"),
        ("pbs", {"nodes": "3", "is_told": True}, "mpiexec -n 3 -ppn 1 W"),
        ("flux", {"nodes": "all", "is_told": True}, "flux exec W"),
        ("slurm", {"nodes": "all", "is_told": True}, SRUN.format(2) + " W"),
    ],
)  # fmt: skip
def test_words_that_launch_a_worker(where, asked, words):
    found = launch(where, **asked)
    assert shlex.join(found.words) == words
    assert found.is_here == (words == "W")
    # Those of srun and flux exec hear on their stdin when they are to stop.
    is_heard = "srun" in shlex.split(words) or words.startswith(("flux exec", "/opt/flux/bin/flux exec"))
    assert found.broadcasts_stdin == is_heard


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("module load x", "module load x\nexec srun W"),
        ("module load x;", "module load x; exec srun W"),
        ("cd /tmp &&", "cd /tmp && exec srun W"),
        ("export A=`date`", "export A=`date`\nexec srun W"),
        ("source /etc/profile", "source /etc/profile\nexec srun W"),
    ],
)
def test_what_the_shell_has_to_do_before_is_a_line_of_its_own(before, line):
    found = launch("slurm", type="slurm", worker_launch="srun", launch_pre=before)
    assert found.words == ("/bin/sh", "-c", line)


@pytest.mark.parametrize(
    ("where", "asked", "error", "said"),
    [
        ("", {"nodes": "all", "is_told": True}, LauncherError, "needs an allocation"),
        ("", {"type": "slurm", "nodes": "2", "is_told": True}, LauncherError, "needs an allocation"),
        ("slurm", {"type": "slurm", "nodes": "3"}, UsageError, "3 nodes are asked for, and the allocation 12 has 2"),
        ("lsf", {"nodes": "3", "is_told": True}, UsageError, "has 2"),
        ("pbs", {"nodes": "all", "is_told": True}, LauncherError, "PBS does not tell how many nodes"),
        ("", {"type": "nope"}, LauncherError, "There is no launcher 'nope'"),
    ],
)
def test_what_can_not_be_launched(where, asked, error, said):
    with pytest.raises(error, match=said) as caught:
        launch(where, **asked)
    assert caught.value.hint
