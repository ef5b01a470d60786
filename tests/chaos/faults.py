"""What may happen to a study, each as one function; by what they excuse: nothing, or a second execution."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

from tests.chaos.arena import Arena, function_of
from tests.conftest import wait_until

#: Moves of a worker whose answers may be lost.
MOVES = ("claim", "settle", "beat", "hand_back", "reclaim")
Fault = Callable[[Arena, random.Random], None]


def cut_connections(arena: Arena, random: random.Random) -> None:
    arena.proxy.cut()


def lose_a_reply(arena: Arena, random: random.Random) -> None:
    arena.proxy.lose_reply(function_of(random.choice(MOVES)))


def lose_many_replies(arena: Arena, random: random.Random) -> None:
    for _ in range(10):
        arena.proxy.lose_reply()


def half_open(arena: Arena, random: random.Random) -> None:
    arena.proxy.is_hole = True
    time.sleep(random.uniform(0.1, 0.5))  # the fault itself
    arena.proxy.is_hole = False


def slow_network(arena: Arena, random: random.Random) -> None:
    arena.proxy.delay_s = 0.05
    time.sleep(random.uniform(0.3, 0.8))  # the fault itself
    arena.proxy.delay_s = 0.0


def client_kill(arena: Arena, random: random.Random) -> None:
    arena.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def client_pause(arena: Arena, random: random.Random) -> None:
    arena.ask("CLIENT", "PAUSE", random.randrange(100, 600), random.choice(["ALL", "WRITE"]))


def script_flush(arena: Arena, random: random.Random) -> None:
    arena.ask("FUNCTION", "FLUSH")
    arena.ask("SCRIPT", "FLUSH")


def restart_server(arena: Arena, random: random.Random) -> None:
    arena.restart_server(signal.SIGTERM, random.uniform(0, 0.5))


def freeze_server(arena: Arena, random: random.Random) -> None:
    arena.freeze_server(random.uniform(0.1, 0.8))


def full_memory(arena: Arena, random: random.Random) -> None:
    arena.ask("CONFIG", "SET", "maxmemory", 1)
    time.sleep(random.uniform(0.1, 0.5))  # the fault itself
    arena.ask("CONFIG", "SET", "maxmemory", 0)


def step_clock(arena: Arena, random: random.Random) -> None:
    if arena.has_clock:
        arena.step_clock(random.choice([-3600, 0, 3600]))


def drain_worker(arena: Arena, random: random.Random) -> None:
    _replace(arena, random, lambda pid: os.kill(pid, signal.SIGTERM))


def kill_engine(arena: Arena, random: random.Random) -> None:
    _replace(arena, random, lambda pid: os.kill(pid, signal.SIGKILL), of_engine=True)


def kill_guard(arena: Arena, random: random.Random) -> None:
    _replace(arena, random, lambda pid: os.kill(pid, signal.SIGKILL))


def end_worker(arena: Arena, random: random.Random) -> None:
    """It is told twice."""
    victim, _ = arena.pick(random)
    log = arena.lab.directory / f"worker-{arena.lab.workers.index(victim)}.log"
    victim.send_signal(signal.SIGTERM)
    wait_until(lambda: victim.poll() is not None or "worker_signalled" in log.read_text(), "the worker drains")
    victim.send_signal(signal.SIGTERM)
    victim.wait(timeout=20)
    arena.work_again()


def freeze_engine(arena: Arena, random: random.Random) -> None:
    _freeze(arena, arena.pick(random)[1])


def freeze_guard(arena: Arena, random: random.Random) -> None:
    _freeze(arena, arena.pick(random)[0].pid)


def kill_server(arena: Arena, random: random.Random) -> None:
    arena.restart_server(signal.SIGKILL, random.uniform(0, 0.3))


def kill_after_settle(arena: Arena, random: random.Random) -> None:
    """The server accounts it, releases what it can at once, and who should go on with the rest is killed."""
    lost = len(arena.proxy.lost)
    arena.proxy.lose_reply(function_of("settle"))
    wait_until(lambda: len(arena.proxy.lost) > lost or not arena.is_running(), "a settle's answer is lost")
    kill_engine(arena, random)


def _replace(arena: Arena, random: random.Random, how: Callable[[int], None], *, of_engine: bool = False) -> None:
    victim, engine = arena.pick(random)
    how(engine if of_engine else victim.pid)
    victim.wait(timeout=30)
    arena.work_again()


def _freeze(arena: Arena, pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    # The others go on meanwhile, and what else happens, happens.
    arena.later(2 * arena.lease_s, lambda: os.kill(pid, signal.SIGCONT))


#: These do nothing to anybody's process.
OF_THE_SERVER: tuple[Fault, ...] = (
    cut_connections, lose_a_reply, lose_many_replies, half_open, slow_network, client_kill, client_pause, script_flush,
    restart_server, freeze_server, full_memory, step_clock,
)  # fmt: skip
#: After these no sample may have run twice: everybody was cut off alike, or said good-bye in order.
HARMLESS: tuple[Fault, ...] = (*OF_THE_SERVER, drain_worker)
#: These take somebody out of the world, with what it ran, or before it could say what it ran.
DEADLY: tuple[Fault, ...] = (
    kill_engine, kill_engine, kill_guard, end_worker, freeze_engine, freeze_guard, kill_server, kill_after_settle,
)  # fmt: skip
