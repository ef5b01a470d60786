"""A real Slurm with two nodes on this machine, for the length of a test session.

Everything is its own: directory, ports, munge key and socket. Nothing of the machine's Slurm, if it has one, is read or
touched. Debian's packages `slurmctld slurmd slurm-client munge` are enough, and root, because slurmd needs it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.conftest import wait_until

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
#: Daemons are not on everybody's PATH.
DAEMON_PATH = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
NODES = ("n1", "n2")
CORES = 4
#: Not the machine's: Slurm would refuse nodes that are smaller than they are said to be.
MEMORY_MB = 1000

_CONF = """\
ClusterName=mruntest
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={dir}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool.%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cores} RealMemory={memory} Gres=gpu:2
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cores} RealMemory={memory} Gres=gpu:2
PartitionName=batch Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
#: Slurm hands out any device files as GPUs.
_GRES = "NodeName=n[1-2] Name=gpu File=/dev/tty[1-2]\n"


def why_not() -> str:
    """Why there can be no Slurm here; empty: there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=DAEMON_PATH) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "slurmd needs root"


class Slurm:
    """The cluster. Starts in `start`; `stop` leaves no process, job or file behind."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="mrslurm", dir="/tmp")).resolve()
        self.directory.chmod(0o755)
        self._daemons: list[subprocess.Popen[bytes]] = []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        self.environment = inherited | {"SLURM_CONF": str(self.directory / "slurm.conf"), "PATH": DAEMON_PATH}

    def start(self) -> None:
        """Start all daemons, and wait until both nodes are idle."""
        for name in ("munge", "state", *(f"spool.{node}" for node in NODES)):
            (self.directory / name).mkdir(mode=0o755)
        key = self.directory / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        conf = _CONF.format(dir=self.directory, ports=_free_ports(3), cores=CORES, memory=MEMORY_MB)
        (self.directory / "slurm.conf").write_text(conf)
        (self.directory / "gres.conf").write_text(_GRES)
        munge = self.directory / "munge"
        self._daemon(
            *("munged", "--foreground", f"--key-file={key}", f"--socket={munge}/socket", f"--pid-file={munge}/pid"),
            *(f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--num-threads=2"),
        )
        wait_until((munge / "socket").exists, "munged listens")
        self._daemon("slurmctld", "-D", "-i")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        try:
            wait_until(lambda: self.node_states() == dict.fromkeys(NODES, "idle"), "both nodes are idle", 60)
        except AssertionError:
            raise AssertionError(f"Slurm did not start:\n{self.logs()}") from None

    def stop(self) -> None:
        """End every job, then every daemon; remove the directory."""
        try:
            self.run("scancel", "--user=root", check=False)
            with contextlib.suppress(AssertionError):
                wait_until(lambda: not self.run("squeue", "--noheader", check=False).stdout.strip(), "no job is left")
        finally:
            for daemon in reversed(self._daemons):
                daemon.send_signal(signal.SIGTERM)
            for daemon in self._daemons:
                try:
                    daemon.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
        # Steps of nodes that were set down run on, as they would on a real machine.
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)
        wait_until(lambda: not self.processes(), f"no process outlives the cluster: {self.processes()}")

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of Slurm's, to its end."""
        done = subprocess.run(
            words, env=self.environment, cwd=self.directory, capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def node_states(self) -> dict[str, str]:
        done = self.run("sinfo", "--noheader", "--Node", "--format=%N %t", check=False)
        return dict(line.split() for line in done.stdout.splitlines())

    def set_node(self, node: str, state: str) -> None:
        """down, or resume."""
        self.run("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")

    def heal(self) -> None:
        """No job, and both nodes idle, for the next test."""
        self.run("scancel", "--user=root", check=False)
        wait_until(self._are_idle, f"nodes are idle: {self.node_states()}", 60)

    def _are_idle(self) -> bool:
        """Whether both are; those that are down are resumed. One that came back since it was looked at refuses that."""
        states = self.node_states()
        for node, state in states.items():
            if state.startswith(("down", "drain")):
                self.run("scontrol", "update", f"NodeName={node}", "State=resume", "Reason=test", check=False)
        return set(states.values()) == {"idle"}

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in self.directory.glob("*.log"))

    def processes(self) -> dict[int, str]:
        """Every process that has this cluster's configuration in its environment."""
        mark = os.fsencode(f"SLURM_CONF={self.directory}/")
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes():
                    found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def _daemon(self, *words: str) -> None:
        program = shutil.which(words[0], path=DAEMON_PATH)
        with (self.directory / f"{words[0]}.{len(self._daemons)}.log").open("wb") as log:
            # A session of its own: Ctrl-C in the tests must not end it before its jobs. Tests that are killed take it
            # with them.
            self._daemons.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", "--", str(program), *words[1:]],
                    env=self.environment,
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
