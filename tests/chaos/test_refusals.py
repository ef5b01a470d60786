"""A server that answers, and refuses: it loads, has no room for connections, breaks them, or sends us elsewhere."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from tests.chaos.arena import Arena
from tests.chaos.test_server import LEASE_S, long_samples
from tests.conftest import TestServer, wait_until


@pytest.mark.slow
def test_workers_wait_for_a_server_that_loads_its_data(arena: Arena) -> None:
    # Given a server whose data take four seconds to load
    for number in range(200):
        arena.ask("SET", f"{{mrun}}:filler:{number}", "x")
    with long_samples(arena):
        arena.ask("BGREWRITEAOF")
        wait_until(lambda: arena.server.client().info("persistence")["aof_rewrite_in_progress"] == 0, "it is written")
        arena.server.options = ["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"]
        # When it is started again
        arena.restart_server()
    # I expect workers to have heard why it does not answer
    assert "is loading its data" in arena.lab.logs()
    for number in range(200):
        arena.ask("DEL", f"{{mrun}}:filler:{number}")


@pytest.mark.slow
def test_workers_wait_for_a_server_without_room_for_their_connections(arena: Arena) -> None:
    with long_samples(arena, lease_s=12), arena.server.client() as admin:
        # An administrator who is connected already stays so.
        admin.config_set("maxclients", 1)
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        wait_until(lambda: "server_away" in arena.lab.logs(), lambda: f"it is said\n{arena.lab.logs()}")
        assert "max number of clients reached" in arena.lab.logs()
        arena.lab.mrun("status", "all", code=5)
        admin.config_set("maxclients", 1000)


@pytest.mark.slow
def test_connections_of_one_worker_that_are_killed_all_the_time_are_made_again(arena: Arena) -> None:
    def connections() -> set[str]:
        return {client["id"] for client in arena.server.client().client_list(_type="normal")}

    # Given two workers
    study = arena.queue_chain(80, sleep_s=0.1)
    first = arena.work(lease_s=3, slots=1)
    arena.wait_ran(3)
    of_first = connections()
    arena.work(lease_s=3, slots=1)
    wait_until(lambda: arena.ask("ZCARD", "{mrun}:2:workers") == 2, "the server knows both")
    # When those of the second are killed, and killed again
    for number in range(1, 6):
        with arena.server.client() as admin:
            mine = str(admin.client_id())
            for one in connections() - of_first - {mine}:
                admin.execute_command("CLIENT", "KILL", "ID", one)
        arena.wait_ran(3 + number * 10)
    # I expect that nothing is lost or done twice, and that the first heard nothing of it
    assert of_first & connections()
    arena.assert_whole(study, 80, is_once=True)
    assert first.poll() is None


@pytest.mark.slow
def test_worker_that_is_sent_elsewhere_by_a_cluster_ends_with_a_sentence(tmp_path: Path) -> None:
    # Given a cluster of two, one of which holds all keys
    nodes = [TestServer("valkey"), TestServer("valkey")]
    try:
        _, ports = [_join(node) for node in nodes]
        with nodes[0].client() as here, nodes[1].client() as there, Arena(tmp_path, nodes[0]) as arena:
            here.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            here.execute_command("CLUSTER", "MEET", "127.0.0.1", *ports)
            wait_until(lambda: b"cluster_state:ok" in here.execute_command("CLUSTER", "INFO"), "it is one")
            arena.queue_chain(20, sleep_s=0.5)
            worker = arena.work(lease_s=LEASE_S)
            arena.wait_ran(4)
            # When the keys of the namespace are given to the other
            here.flushall()
            slot, other = (
                here.execute_command("CLUSTER", "KEYSLOT", "{mrun}:"),
                there.execute_command("CLUSTER", "MYID"),
            )
            for node in (there, here):
                node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", other)
            # I expect the worker to end what it runs and itself, and commands to be refused, in one sentence each
            assert worker.wait(timeout=30) == 5, arena.lab.logs()
            assert "part of a cluster" in arena.lab.logs()
            wait_until(lambda: not arena.lab.leftovers(), "nothing of it runs on")
            arena.lab.mrun("status", "all", code=5)
    finally:
        for node in nodes:
            node.remove()


def _join(node: TestServer) -> tuple[int, int]:
    """Start a server that may be part of a cluster; its port, and the one that the other servers of it use."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        port, bus_port = (one.getsockname()[1] for one in sockets)
    node.options = ["--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes"]
    node.options += ["--cluster-port", str(bus_port)]
    node.start()
    return port, bus_port
