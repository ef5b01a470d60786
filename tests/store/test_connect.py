"""Which server is chosen, how it is reached, and what its refusals become."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis.asyncio
from redis import exceptions

from mrun.engine.errors import (
    BrokerAwayError,
    BrokerError,
    ExitCode,
    MrunError,
    NotFoundError,
    SettingsError,
    UsageError,
)
from mrun.engine.server.own import start_own_server, stop_own_server
from mrun.engine.settings import Secret, Settings, load_settings
from mrun.engine.store.connect import Broker, check_server, find_broker, greeted, open_broker, translate_errors, url_of
from tests.conftest import TestServer
from tests.store.homes import OwnHome, own_home

PASSWORD = "correct-horse"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnHome]:
    with own_home("valkey", monkeypatch) as made:
        yield made


@contextlib.asynccontextmanager
async def opened(broker: Broker, *, is_blocking: bool = False) -> AsyncIterator[redis.asyncio.Redis]:
    client = await open_broker(broker, is_blocking=is_blocking)
    try:
        yield client
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def fake_server(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers each command by `answer`, or hangs up on None; its address, and the commands it got."""
    commands: list[bytes] = []
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                count = int((await reader.readline() or b"*0")[1:])
                words = [await _bulk(reader) for _ in range(count)]
                commands.append(b" ".join(words))
                reply = answer(commands[-1]) if words else None
                if reply is None:
                    break
                writer.write(reply)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}", commands
        if serving:
            await asyncio.wait(serving, timeout=5)


async def _bulk(reader: asyncio.StreamReader) -> bytes:
    return (await reader.readexactly(int((await reader.readline())[1:]) + 2))[:-2]


def bulk(text: str) -> bytes:
    return f"${len(text)}\r\n{text}\r\n".encode()


def answering(**extra: str) -> Callable[[bytes], bytes | None]:
    """A healthy server of version 7.2, except for these commands."""
    server = extra.pop("server", "redis_version:7.2.5\r\n")

    def answer(command: bytes) -> bytes | None:
        word = command.split()[0].decode()
        if word in extra:
            return extra[word].encode() if extra[word] else None
        if command == b"INFO server":
            return bulk(server)
        if word == "INFO":
            return bulk(extra.get(command.split()[1].decode(), "aof_enabled:1\r\n"))
        return b"+PONG\r\n" if word == "PING" else b"+OK\r\n"

    return answer


# Which server


def test_named_server_comes_first_and_is_not_asked(home: OwnHome):
    # Given a named server that is not there, and an own one that runs
    start_own_server(home.settings())
    broker = find_broker(home.settings(MRUN_BROKER=f"redis://user:{PASSWORD}@nowhere:1/3"), {}, may_start=True)
    assert broker.url == "redis://nowhere:1/3"
    assert (broker.username, broker.password) == ("user", Secret(PASSWORD))
    assert (broker.origin, broker.is_own) == ("MRUN_BROKER", False)
    assert PASSWORD not in repr(broker)


def test_access_file_comes_before_the_own_server(home: OwnHome):
    settings = home.settings()
    facts = start_own_server(settings, listen="127.0.0.1")
    broker = find_broker(settings, {"SLURM_JOB_ID": "1"}, may_start=True)
    assert (broker.url, broker.password) == (facts.listen_url, facts.password)
    assert "access.toml" in broker.origin


def test_own_server_is_started_if_it_may_be(home: OwnHome):
    settings = home.settings()
    with pytest.raises(BrokerError, match="No server is running") as caught:
        find_broker(settings, {}, may_start=False)
    assert "mrun server start" in caught.value.hint
    assert home.server_pids() == []
    started = find_broker(settings, {}, may_start=True)
    assert (started.origin, started.is_own, started.was_started) == ("your own server on this host", True, True)
    found = find_broker(settings, {}, may_start=False)
    assert (found.url, found.was_started) == (started.url, False)


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "FLUX_JOB_ID", "FLUX_ENCLOSING_ID", "LSB_JOBID", "PBS_JOBID"])
def test_own_server_is_not_started_inside_an_allocation(home: OwnHome, variable: str):
    with pytest.raises(BrokerError, match=variable) as caught:
        find_broker(home.settings(), {variable: "12345"}, may_start=True)
    assert "mrun server start --listen" in caught.value.hint
    assert "login node" in caught.value.hint
    assert home.server_pids() == []


def test_own_server_that_runs_inside_an_allocation_is_used(home: OwnHome):
    facts = start_own_server(home.settings())
    assert find_broker(home.settings(), {"SLURM_JOB_ID": "1"}, may_start=True).url == facts.url


@pytest.mark.parametrize(
    ("address", "url", "username"),
    [
        ("redis://h", "redis://h", None),
        ("valkey://h:1/2", "redis://h:1/2", None),
        ("valkeys://h:1", "rediss://h:1", None),
        ("rediss://me@h:1?ssl_cert_reqs=none&db=2", "rediss://h:1?ssl_cert_reqs=none&db=2", "me"),
        ("h:6380", "redis://h:6380", None),
        ("me%40site@h:6380", "redis://h:6380", "me@site"),
        ("[::1]:6380", "redis://[::1]:6380", None),
        ("/run/a b#.sock", "unix:///run/a%20b%23.sock", None),
        ("unix:///run/s", "unix:///run/s", None),
        ("unix://me@/run/s?db=1", "unix:///run/s?db=1", "me"),
    ],
)
def test_address_is_read(address: str, url: str, username: str | None):
    broker = find_broker(_settings(MRUN_BROKER=address), {}, may_start=False)
    assert (broker.url, broker.username) == (url, username)


@pytest.mark.parametrize(
    "address",
    [
        "localhost",
        "http://h:1",
        "redis://",
        "redis://:1",
        "h:port",
        "h:99999",
        "redis://h/db",
        "unix://run/s",
        "redis://h?socket_timeout=1",
        "redis://[::1",
    ],
)
def test_address_that_is_none_is_refused_with_its_origin(address: str):
    with pytest.raises(SettingsError, match="MRUN_BROKER") as caught:
        find_broker(_settings(MRUN_BROKER=address), {}, may_start=True)
    assert "redis://HOST:PORT" in caught.value.hint
    with pytest.raises(UsageError, match="option --broker"):
        find_broker(load_settings({"broker": address}, {"HOME": "/nowhere"}, Path("/nowhere")), {}, may_start=True)


def _settings(**environ: str) -> Settings:
    return load_settings({}, {"HOME": "/nowhere", **environ}, Path("/nowhere"))


# A connection


async def test_client_gives_bytes_and_lists_and_check_finds_a_healthy_server_fit(shared_server: TestServer):
    async with opened(Broker(shared_server.url, "a test")) as client:
        assert await client.ping() is True
        assert await client.eval("return {1, 'a', {ok='b'}}", 0) == [1, b"a", b"b"]
        check = await check_server(client)
    assert check.product in ("Valkey", "Redis")
    assert int(check.version.split(".")[0]) >= 7
    assert check.is_append_only
    # Valkey has the command, and answers it before the file is on the disk; this Redis has none.
    assert (check.can_wait_for_disk, check.flush_policy) == (False, "everysec")
    assert check.warnings == ()


async def test_own_listening_server_is_reached_by_its_socket_and_by_its_address(home: OwnHome):
    settings = home.settings()
    facts = start_own_server(settings, listen="127.0.0.1")
    by_address = find_broker(settings, {}, may_start=False)
    by_socket = Broker(facts.url, "a test", password=facts.password)
    for broker in (by_address, by_socket):
        async with opened(broker) as client:
            assert await client.ping()
            assert url_of(client) == broker.url
            assert facts.password is not None
            assert facts.password.reveal() not in repr(client) + repr(broker)
    stop_own_server(settings)


async def test_check_warns_of_a_server_that_forgets(own_server: TestServer):
    with contextlib.closing(own_server.client()) as owner:
        owner.config_set("appendonly", "no")
        owner.config_set("maxmemory", "100mb")
        owner.config_set("maxmemory-policy", "allkeys-lru")
    async with opened(Broker(own_server.url, "a test")) as client:
        check = await check_server(client)
    assert (check.is_append_only, check.can_wait_for_disk) == (False, False)
    assert "acknowledged work may be lost" in check.warnings[0]
    assert "allkeys-lru" in check.warnings[1]


async def test_server_that_is_not_there_is_a_quick_error_without_the_password():
    broker = Broker("redis://127.0.0.1:1", "MRUN_BROKER", password=Secret(PASSWORD), hint="Start it.")
    started = time.monotonic()
    with pytest.raises(BrokerAwayError) as caught:
        await open_broker(broker)
    assert time.monotonic() - started < 2
    assert caught.value.exit_code == ExitCode.BROKER
    assert caught.value.is_retryable
    assert caught.value.message == "The server at redis://127.0.0.1:1 does not answer (Connection refused)."
    assert caught.value.hint == "Start it."


async def test_socket_that_is_not_there_and_host_that_has_no_name_are_the_same_error(tmp_path: Path):
    with pytest.raises(BrokerAwayError, match="No such file"):
        await open_broker(Broker(f"unix://{tmp_path}/s", "a test"))
    with pytest.raises(BrokerAwayError, match=r"no-such-host\.invalid"):
        await open_broker(Broker("redis://no-such-host.invalid:1", "a test"))


async def test_wrong_and_missing_password_are_errors_with_the_fix(home: OwnHome):
    facts = start_own_server(home.settings(), listen="127.0.0.1")
    for password in (Secret(PASSWORD), None):
        with pytest.raises(BrokerError, match="refuses the login") as caught:
            await open_broker(Broker(str(facts.listen_url), "a test", password=password))
        assert not caught.value.is_retryable
        assert "MRUN_PASSWORD" in caught.value.hint
        assert PASSWORD not in caught.value.message


async def test_server_that_is_too_old_is_refused():
    async with fake_server(answering(server="redis_version:6.2.14\r\n")) as (url, _):
        with pytest.raises(BrokerError, match=r"6\.2\.14") as caught:
            await open_broker(Broker(url, "a test"))
    assert not caught.value.is_retryable


async def test_server_that_loads_is_away():
    async with fake_server(answering(PING="-LOADING Redis is loading the dataset in memory\r\n")) as (url, _):
        with pytest.raises(BrokerAwayError, match="loading its data"):
            await open_broker(Broker(url, "a test"))


async def test_what_is_no_server_of_this_kind_is_said():
    async with fake_server(lambda command: b"HTTP/1.1 400 Bad Request\r\n") as (url, _):
        with pytest.raises(BrokerError, match="not as a Redis"):
            await open_broker(Broker(url, "a test"))


async def test_command_whose_reply_is_lost_is_sent_once():
    # redis-py repeats by itself if it may; a claim would be made twice.
    async with fake_server(answering(INCR="")) as (url, commands), opened(Broker(url, "a test")) as client:
        with pytest.raises(BrokerAwayError), translate_errors(url_of(client)):
            await client.execute_command("INCR", "key")
        assert commands.count(b"INCR key") == 1
        # It heals by itself at the next command.
        assert await client.ping()


async def test_server_that_never_answers_is_away_in_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mrun.engine.store.connect.ANSWER_TIMEOUT_S", 0.1)
    async with fake_server(answering(PING="+")) as (url, _):
        with pytest.raises(BrokerAwayError, match="does not answer"):
            await open_broker(Broker(url, "a test"))


async def test_blocking_connection_waits_longer_than_others(shared_server: TestServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mrun.engine.store.connect.ANSWER_TIMEOUT_S", 0.2)
    broker = Broker(shared_server.url, "a test")
    async with opened(broker, is_blocking=True) as client:
        assert await client.blpop(["nothing"], timeout=0.5) is None
    async with opened(broker) as client:
        with pytest.raises(BrokerAwayError), translate_errors():
            await client.blpop(["nothing"], timeout=0.5)


async def test_worker_that_begins_when_connections_break_greets_again(own_server: TestServer):
    # Given a server that hangs up on the first connection, in the middle of what is asked first
    tries = 0

    async def greet() -> bool:
        nonlocal tries
        tries += 1
        async with opened(Broker(own_server.url, "a test")) as client:
            if tries == 1:
                with own_server.client() as admin:
                    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            with translate_errors():
                return bool(await client.ping())

    assert await greeted(greet)
    assert tries == 2


# Errors


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


async def test_login_that_is_refused_over_a_socket_is_told_as_such(own_server: TestServer):
    with own_server.client() as admin:
        admin.config_set("requirepass", "right")
        with pytest.raises(BrokerError, match="refuses the login"):
            async with opened(Broker(own_server.url, "a test", password=Secret("wrong"))) as client:
                await check_server(client)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (exceptions.ConnectionError("gone"), BrokerAwayError, "does not answer (gone)"),
        (exceptions.TimeoutError("Timeout reading"), BrokerAwayError, "does not answer"),
        (exceptions.BusyLoadingError("loading"), BrokerAwayError, "loading its data"),
        (exceptions.ResponseError("BUSY Redis is busy running a script."), BrokerAwayError, "can't answer now"),
        (exceptions.ClusterDownError("down"), BrokerAwayError, "can't answer now"),
        (exceptions.AuthenticationError("WRONGPASS"), BrokerError, "refuses the login"),
        (exceptions.NoPermissionError("no permission to run 'evalsha'"), BrokerError, "does not permit"),
        (exceptions.ReadOnlyError("READONLY"), BrokerAwayError, "replica"),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas"), BrokerAwayError, "can't answer now"),
        (exceptions.ResponseError("UNBLOCKED force unblock from blocking operation"), BrokerAwayError, "can't answer"),
        (exceptions.ResponseError("ERR Script killed by user with SCRIPT KILL."), BrokerAwayError, "can't answer now"),
        (exceptions.OutOfMemoryError("command not allowed"), BrokerError, "out of memory"),
        (exceptions.ResponseError("MISCONF Errors writing to the AOF file"), BrokerAwayError, "write to its disk"),
        (exceptions.MovedError("1 h:1"), BrokerError, "cluster"),
        (exceptions.InvalidResponse("x"), BrokerError, "not as a Redis"),
        (exceptions.ResponseError("NOGROUP No such key"), NotFoundError, "no such stream or group"),
        (exceptions.ResponseError("no such key"), NotFoundError, "no such stream or group"),
        (exceptions.ResponseError("ERR something new"), MrunError, "ERR something new"),
        (exceptions.ResponseError("unknown command 'INFO', with args beginning"), BrokerError, "command 'INFO'."),
        (exceptions.ResponseError("ERR Unknown Redis command called from script"), BrokerError, "does not know"),
        (exceptions.ResponseError("This Redis command is not allowed from script"), BrokerError, "does not know"),
        (exceptions.ResponseError("ACL failure in script: User u has no permissions"), BrokerError, "does not permit"),
        (exceptions.ResponseError("Error compiling script: unexpected symbol near '#'"), BrokerError, "too old"),
        (
            caused(exceptions.ConnectionError("x"), exceptions.AuthenticationError("y")),
            BrokerError,
            "refuses the login",
        ),
        (caused(exceptions.ConnectionError("x"), OSError("y")), BrokerAwayError, "does not answer"),
    ],
)
def test_redis_exceptions_become_errors_of_mrun(error: Exception, kind: type[MrunError], words: str):
    with pytest.raises(MrunError) as caught, translate_errors("redis://h:1"):
        raise error
    assert type(caught.value) is kind
    assert words in caught.value.message
    assert "redis://h:1" in caught.value.message
    assert caught.value.hint
    assert caught.value.__cause__ is error


def test_certificate_that_is_not_trusted_is_no_passing_trouble():
    error = exceptions.ConnectionError("Error 1 connecting")
    error.__cause__ = ssl.SSLCertVerificationError(1, "self-signed certificate")
    with pytest.raises(BrokerError, match="not trusted: self-signed") as caught, translate_errors("rediss://h:1"):
        raise error
    assert not caught.value.is_retryable


def test_missing_script_and_errors_of_mrun_go_through():
    for error in (exceptions.NoScriptError("NOSCRIPT"), MrunError("ours")):
        with pytest.raises(type(error)), translate_errors():
            raise error


def test_server_without_a_known_address_is_called_the_server():
    with pytest.raises(BrokerAwayError, match=r"^The server does not answer"), translate_errors():
        raise exceptions.ConnectionError("x")
