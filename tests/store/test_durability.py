"""`durability = strict`: which servers can keep it, what is waited for, and what is said when it does not come."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import redis as sync_redis
import structlog.testing

from mrun.engine.errors import BrokerAwayError, BrokerError, ExitCode
from mrun.engine.records import OutcomeRun
from mrun.engine.server.files import read_record, server_home
from mrun.engine.server.own import find_own_server, start_own_server, stop_own_server
from mrun.engine.settings import load_settings
from mrun.engine.store import durability
from mrun.engine.store.connect import Broker, check_server, open_broker
from mrun.engine.store.durability import Flusher, FlushNeeds, flush_needs
from mrun.engine.store.store import Store
from tests.cli.homes import Home
from tests.conftest import SERVERS, TestServer, wait_until
from tests.store.homes import OwnHome, own_home
from tests.store.plans import SEAL, IdleWorker, S, make_plan, submit

STRICT = load_settings({"durability": "strict"}, {"HOME": "/nowhere"}, Path("/nowhere"))
SPEC = """
    description: {name: kept, description: is it there after a crash?}
    study:
    - name: a
      description: one
      run: {cmd: "true", task_queue: q}
    """


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[TestServer]:
    one = TestServer(request.param)
    one.start()
    yield one
    one.remove()


@pytest.fixture(params=SERVERS)
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnHome]:
    with own_home(request.param, monkeypatch) as made:
        yield made


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a disk gives up after a moment."""
    monkeypatch.setattr(durability, "_ASK_MS", 100)
    monkeypatch.setattr(durability, "FLUSH_PATIENCE_S", 0.3)


@contextlib.asynccontextmanager
async def opened(server: TestServer, **words: Any) -> AsyncIterator[Store]:
    client = await open_broker(Broker(server.url, "a test"))
    try:
        yield Store(client, "mrun", **words)
    finally:
        await client.aclose()


def configure(server: TestServer, **values: str) -> None:
    with contextlib.closing(server.client()) as owner:
        for name, value in values.items():
            owner.config_set(name.replace("_", "-"), value)


async def needs_of(server: TestServer) -> FlushNeeds:
    async with opened(server) as store:
        return await flush_needs(store.client, Broker(server.url, "a test"), STRICT)


# Which servers can


async def test_server_that_flushes_every_write_needs_nothing_more(server: TestServer):
    configure(server, appendfsync="always")
    assert await needs_of(server) == FlushNeeds()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"appendonly": "no"}, "keeps no append-only file"),
        ({"appendfsync": "no"}, "leaves it to its system"),
        ({"appendfsync": "always", "no_appendfsync_on_rewrite": "yes"}, "leaves it to its system"),
        # Valkey has WAITAOF, and answers it before the flush; Redis 7.0 has none.
        ({"appendfsync": "everysec"}, "with appendfsync everysec, and can't tell when a change is on its disk"),
    ],
)
async def test_server_that_can_not_promise_it_is_refused_with_the_fix(
    server: TestServer, values: dict[str, str], says: str
):
    configure(server, **values)
    with pytest.raises(BrokerError, match=says) as caught:
        await needs_of(server)
    assert caught.value.exit_code == ExitCode.BROKER
    assert not caught.value.is_retryable
    assert "appendfsync always" in caught.value.hint


async def test_nothing_is_asked_of_a_server_unless_it_is_to_be_strict(server: TestServer):
    configure(server, appendonly="no")
    settings = load_settings({}, {"HOME": "/nowhere"}, Path("/nowhere"))
    async with opened(server) as store:
        assert await flush_needs(store.client, Broker(server.url, "a test"), settings) == FlushNeeds()


async def test_server_that_has_a_replica_is_waited_for_until_the_replica_has_it_too(
    server: TestServer, free_tcp_port: int, request: pytest.FixtureRequest
):
    configure(server, appendfsync="always", repl_diskless_sync_delay="0")
    replica = TestServer("valkey" if "valkey" in server.binary else "redis")
    replica.start()
    try:
        configure(server, port=str(free_tcp_port))
        with contextlib.closing(replica.client()) as client:
            client.replicaof("127.0.0.1", free_tcp_port)
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica follows")
        needs = await needs_of(server)
        assert needs == FlushNeeds(replica=True)
        async with opened(server) as store:
            flusher = Flusher(store.client, store.keys.root, needs, patience_s=0)
            await flusher.wait()
            # When it has gone I expect that to be said
            replica.stop(signal.SIGKILL)
            request.getfixturevalue("soon")
            with pytest.raises(BrokerError, match="not on a replica"):
                await flusher.wait()
    finally:
        replica.remove()


# Your own server


async def test_own_server_flushes_every_write_from_then_on_until_it_is_stopped(home: OwnHome):
    settings = load_settings({"durability": "strict"}, home.environ, home.directory)
    facts = start_own_server(home.settings())
    assert policy_of(home) == "everysec"
    # When a strict command comes
    broker = Broker(facts.url, "a test", is_own=True)
    client = await open_broker(broker)
    assert await flush_needs(client, broker, settings) == FlushNeeds()
    await client.aclose()
    assert policy_of(home) == "always"
    # I expect it to be so after a crash, whoever starts the server again, and not after it was stopped on purpose
    home.kill(facts.pid)
    start_own_server(home.settings())
    assert policy_of(home) == "always"
    stop_own_server(home.settings())
    start_own_server(home.settings())
    assert policy_of(home) == "everysec"
    assert start_own_server(settings).started_now is False
    assert policy_of(home) == "always"
    stop_own_server(settings)
    start_own_server(settings)
    assert policy_of(home) == "always"
    stop_own_server(settings)


def policy_of(home: OwnHome) -> str:
    facts = find_own_server(home.settings())
    assert facts is not None
    with sync_redis.Redis(unix_socket_path=facts.url.removeprefix("unix://")) as client:
        policy = client.config_get("appendfsync")["appendfsync"]
    record = read_record(server_home(home.settings()))
    assert record is not None
    assert record.flushes_each_write is (policy == "always")
    return str(policy)


def test_study_that_was_queued_strictly_is_there_after_the_server_was_killed_at_once():
    home = Home()
    try:
        spec = str(home.write("spec.yaml", SPEC))
        home.ok("server", "start")
        with home.server() as client:
            pid = client.info("server")["process_id"]
        queueing = home.start("queue", spec, "--durability", "strict", "-q")
        study = queueing.stdout.readline().strip()
        # When the server dies as soon as the study's name is printed
        subprocess.run(["kill", "-9", str(pid)], check=True)
        assert queueing.wait(timeout=20) == 0
        home.ok("server", "start")
        # I expect the study to be there, and to run
        assert home.json("status", study)[0]["state"] == "running"
        assert home.work_off("q", "--durability", "strict").returncode == 0
        assert home.json("status", study)[0]["state"] == "finished"
    finally:
        home.close().finish()


@pytest.mark.slow
def test_nothing_is_made_when_the_server_can_not_keep_it(own_server: TestServer, tmp_path: Path):
    home = Home()
    try:
        spec = str(home.write("spec.yaml", SPEC))
        environ = {"MRUN_BROKER": own_server.url, "MRUN_DURABILITY": "strict"}
        for words in (("queue", spec), ("run", spec), ("submit", "--name", "x", "true"), ("work", "--queues", "q")):
            done = home.run(*words, environ=environ)
            assert done.returncode == 5, words
            assert "Durability 'strict' can't be kept" in done.stderr
            assert "fix:" in done.stderr
        assert [path.name for path in home.work.iterdir()] == ["spec.yaml"]
        with contextlib.closing(own_server.client()) as client:
            assert client.dbsize() == 0
        # What only looks is not refused
        assert home.run("status", environ=environ).returncode == 0
        done = home.run("queue", spec, "--durability", "everysec", "--json", environ=environ)
        assert json.loads(done.stdout)["study"]
    finally:
        home.close().finish()


# What is waited for. Valkey's WAITAOF has the right form, whatever it means by its answer.


async def test_only_what_ends_a_node_or_queues_a_study_is_waited_for(own_server: TestServer):
    async with opened(own_server, flush=FlushNeeds(disk=True)) as store:

        async def was_waited() -> bool:
            return bool(await store.client.delete(f"{store.keys.root}mark"))

        await submit(store, make_plan(2, S("a"), S("b", uses_samples=False, after=("a",))))
        assert await was_waited()
        worker = IdleWorker(store, "w", slots=1)
        await worker.beat()
        (claim,) = await worker.claim()
        assert await worker.settle(claim, OutcomeRun(1, "finished")) == "ok"
        assert not await was_waited()
        (claim,) = await worker.claim()
        assert await worker.settle(claim, OutcomeRun(1, "finished")) == "ok"
        assert await was_waited()


async def test_server_that_does_not_flush_is_told_to_the_user_and_the_study_is_queued(
    own_server: TestServer, soon: None
):
    configure(own_server, appendfsync="no")
    async with opened(own_server, flush=FlushNeeds(disk=True)) as store:
        with pytest.raises(BrokerError, match="not on its disk") as caught:
            await submit(store, make_plan(1, S("a")))
        assert caught.value.exit_code == ExitCode.BROKER
        assert not isinstance(caught.value, BrokerAwayError)
        assert await store.client.zcard(f"{store.keys.root}studies") == 1


async def test_worker_waits_for_a_late_disk_and_says_so_once(own_server: TestServer, soon: None):
    configure(own_server, appendfsync="no")
    async with opened(own_server) as store:
        flusher = Flusher(store.client, store.keys.root, FlushNeeds(disk=True), patience_s=float("inf"))
        with structlog.testing.capture_logs() as logs:
            async with anyio.create_task_group() as group:
                group.start_soon(flusher.wait)
                await anyio.to_thread.run_sync(wait_until, lambda: logs, "it is said")
                # As long again as it took to be said the first time
                await anyio.sleep(0.5)
                configure(own_server, appendfsync="everysec")
    assert [(entry["event"], entry["lacking"]) for entry in logs] == [("flush_late", "its disk")]


async def test_server_whose_log_is_switched_off_meanwhile_is_refused(own_server: TestServer):
    configure(own_server, appendonly="no")
    async with opened(own_server, flush=FlushNeeds(disk=True)) as store:
        with pytest.raises(BrokerError, match="can't tell any more"):
            await submit(store, make_plan(1, S("a")))


async def test_full_server_can_still_be_waited_for(own_server: TestServer):
    configure(own_server, maxmemory="1")
    async with opened(own_server) as store:
        await Flusher(store.client, store.keys.root, FlushNeeds(disk=True), patience_s=0).wait()


async def test_commit_that_the_server_forgot_before_it_was_on_its_disk_is_made_again(own_server: TestServer):
    log_dir, kept_dir = own_server.directory / "appendonlydir", own_server.directory / "kept"
    async with opened(own_server, flush=FlushNeeds(disk=True), patience_s=float("inf")) as store:
        # Given what the server has on its disk before a commit that does not get there
        staged = await store.submit("s1", make_plan(1, S("a")), SEAL)
        configure(own_server, appendfsync="no")
        shutil.copytree(log_dir, kept_dir)
        async with anyio.create_task_group() as group:
            group.start_soon(store.commit, "s1", staged, ["name", "test", "instances_left", 1, "step_count", 1])
            await anyio.to_thread.run_sync(wait_until, lambda: has_study(own_server, "s1"), "it is committed")
            # When its machine dies, and comes back with no more than that
            own_server.stop(signal.SIGKILL)
            shutil.rmtree(log_dir)
            shutil.copytree(kept_dir, log_dir)
            await anyio.to_thread.run_sync(own_server.start)
        # I expect the commit to have been made again before it was said to be done
        assert has_study(own_server, "s1")


def has_study(server: TestServer, study: str) -> bool:
    with contextlib.closing(server.client()) as client:
        return client.zscore("{mrun}:2:studies", study) is not None


async def test_check_tells_what_a_server_does_with_its_log(server: TestServer):
    configure(server, appendfsync="no")
    async with opened(server) as store:
        check = await check_server(store.client)
        assert (check.flush_policy, check.has_replica, check.can_wait_for_disk) == ("no", False, False)
        assert "half a minute" in check.warnings[0]
        assert await store.client.config_set("appendfsync", "everysec")
        assert (await check_server(store.client)).warnings == ()
