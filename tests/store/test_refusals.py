"""What real servers answer when they can't serve: each becomes an error that tells who waits whether to wait."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import redis as sync_redis
from redis import exceptions

from mrun.engine.errors import BrokerAwayError, BrokerError, ExitCode
from mrun.engine.store.connect import Broker, open_broker
from mrun.engine.store.schema import Keys
from mrun.engine.store.store import Store
from tests.conftest import SERVERS, TestServer, wait_until
from tests.lab import BIN, Lab
from tests.store.plans import IdleWorker, S, make_plan, submit


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[TestServer]:
    one = TestServer(request.param)
    one.start()
    yield one
    one.remove()


@contextlib.asynccontextmanager
async def opened(server: TestServer, patience_s: float = 0, url: str = "") -> AsyncIterator[Store]:
    client = await open_broker(Broker(url or server.url, "a test"))
    try:
        yield Store(client, "mrun", patience_s=patience_s)
    finally:
        await client.aclose()


def ask(server: TestServer, *words: object) -> object:
    with contextlib.closing(server.client()) as client:
        return client.execute_command(*words)


async def test_replica_is_waited_for_until_it_is_promoted(server: TestServer) -> None:
    async with opened(server) as store:
        ask(server, "REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(BrokerAwayError, match="is a replica"):
            await submit(store, make_plan(1, S("a")))
        store.patience_s = 20
        async with anyio.create_task_group() as group:
            group.start_soon(submit, store, make_plan(1, S("a")))
            await anyio.sleep(0.2)
            ask(server, "REPLICAOF", "NO", "ONE")
        assert ask(server, "ZCARD", "{mrun}:2:studies") == 1


async def test_server_that_is_busy_with_a_script_is_waited_for(server: TestServer) -> None:
    ask(server, "CONFIG", "SET", "busy-reply-threshold", "10")
    client = server.client()

    def be_busy() -> None:
        with contextlib.suppress(exceptions.ResponseError):
            client.eval("while true do end", 0)

    async with opened(server) as store:
        thread = threading.Thread(target=be_busy)
        thread.start()
        try:

            def is_busy() -> bool:
                with contextlib.suppress(exceptions.ResponseError):
                    return not ask(server, "PING")
                return True

            await anyio.to_thread.run_sync(wait_until, is_busy, "the server is busy")
            with pytest.raises(BrokerAwayError, match="can't answer now: BUSY"):
                await store.call("GET", "x")
        finally:
            ask(server, "SCRIPT", "KILL")
            thread.join(timeout=20)
            client.close()
        assert await store.call("GET", "x") is None


async def test_scripts_that_were_flushed_are_sent_again(server: TestServer) -> None:
    async with opened(server) as store:
        study = await submit(store, make_plan(3, S("a")))
        worker = IdleWorker(store, "w")
        await worker.beat()
        ask(server, "SCRIPT", "FLUSH")
        await worker.drain()
        ask(server, "SCRIPT", "FLUSH")
        assert await store.forget(study) == "ok"


def start_slowly(server: TestServer) -> None:
    """Without waiting until it answers."""
    words = [server.binary, "--port", "0", "--unixsocket", str(server.socket), "--dir", str(server.directory)]
    words += ["--appendonly", "yes", "--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024"]
    server.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)


@pytest.mark.slow
async def test_server_that_loads_its_data_is_away_and_then_there(server: TestServer) -> None:
    with contextlib.closing(server.client()) as client, client.pipeline(transaction=False) as pipe:
        for number in range(10_000):
            pipe.set(f"k{number}", "x" * 100)
        pipe.execute()
        # Only what is in the snapshot part of the file can be made to load slowly
        client.bgrewriteaof()
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "it is rewritten")
    server.stop()
    start_slowly(server)
    said: set[str] = set()
    for _ in range(300):
        try:
            async with opened(server):
                break
        except BrokerAwayError as error:
            said.add(error.message.partition(" is ")[2])
            await anyio.sleep(0.05)
    assert "loading its data." in said
    assert ask(server, "DBSIZE") == 10_000


async def test_server_with_as_many_clients_as_it_admits_says_so(server: TestServer) -> None:
    ask(server, "CONFIG", "SET", "maxclients", "2")
    with contextlib.closing(server.client()) as one, contextlib.closing(server.client()) as other:
        assert one.ping()
        assert other.ping()
        with pytest.raises(BrokerAwayError, match="as many clients as it admits") as caught:
            async with opened(server):
                pass
        assert "maxclients" in caught.value.hint
    async with opened(server):
        pass


async def test_server_that_does_not_answer_in_time_is_away(server: TestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrun.engine.store.connect.ANSWER_TIMEOUT_S", 0.2)
    async with opened(server) as store:
        ask(server, "CLIENT", "PAUSE", "60000", "ALL")
        began = time.monotonic()
        with pytest.raises(BrokerAwayError, match="does not answer"):
            await store.call("GET", "x")
        assert time.monotonic() - began < 5


def free_port() -> int:
    """One whose cluster port, 10,000 higher, is a port, too."""
    for port in range(21000, 29000, 7):
        with socket.socket() as one, socket.socket() as bus, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            return port
    raise AssertionError("no port is free")


@pytest.mark.slow
def test_part_of_a_cluster_without_the_keys_is_one_sentence_and_the_part_that_has_them_works(
    tmp_path: Path, own_server: TestServer
) -> None:
    lab = Lab(tmp_path, own_server)
    parts = [TestServer("valkey"), TestServer("valkey")]
    clients: list[sync_redis.Redis] = []
    try:
        ports = []
        for part in parts:
            ports.append(port := free_port())
            part.options = ["--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes"]
            part.start()
            clients.append(part.client())
        clients[0].execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        clients[1].execute_command("CLUSTER MEET", "127.0.0.1", ports[0])
        slot = clients[1].execute_command("CLUSTER KEYSLOT", Keys("mrun").root)

        def is_moved() -> bool:
            try:
                clients[1].execute_command("GET", Keys("mrun").root)
            except exceptions.ResponseError as error:
                return isinstance(error, exceptions.MovedError) and error.slot_id == slot
            return False

        wait_until(is_moved, "the empty part knows who has the keys")
        spec = lab.spec("""
            description: {name: moved, description: d}
            study: [{name: a, description: d, run: {cmd: "true"}}]
            """)
        for words in (["queue", spec], ["status"], ["run", spec]):
            ended = subprocess.run(
                [BIN / "mrun", "--broker", f"redis://127.0.0.1:{ports[1]}", *words],
                cwd=lab.directory, env=lab.environment, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert ended.returncode == ExitCode.BROKER, ended.stderr
            assert "part of a cluster that does not hold the keys" in ended.stderr
            assert "Traceback" not in ended.stderr
        lab.mrun("--broker", f"redis://127.0.0.1:{ports[0]}", "run", spec)
    finally:
        for client in clients:
            client.close()
        for part in parts:
            part.remove()
        lab.close()


async def test_worker_ends_with_one_sentence_where_nothing_heals(own_server: TestServer) -> None:
    ask(own_server, "ACL", "SETUSER", "default", "-@scripting")
    with pytest.raises(BrokerError, match="does not permit") as caught:
        async with opened(own_server, patience_s=float("inf")) as store:
            await IdleWorker(store, "w").beat()
    assert caught.value.exit_code == ExitCode.BROKER
    assert not caught.value.is_retryable


def test_worker_of_mrun_run_logs_in_as_the_user_of_the_address(server: TestServer, tmp_path: Path) -> None:
    with contextlib.closing(server.client()) as client:
        client.execute_command("ACL", "SETUSER", "anna", "on", ">secret", "~{mrun}:*", "+@all")
    lab = Lab(tmp_path, server)
    lab.environment |= {"MRUN_BROKER": f"unix://anna@{server.socket}", "MRUN_PASSWORD": "secret"}
    spec = lab.spec(
        """
        description: {name: one, description: x}
        study: [{name: a, description: x, run: {cmd: echo a >> $LEDGER/a}}]
        """
    )
    lab.mrun("run", spec)
    assert lab.ledger("a")["a"] == 1
