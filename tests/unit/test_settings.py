"""Settings: who says what, what is refused, and where a password may come from."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from mrun.engine.errors import ExitCode, SettingsError, UsageError
from mrun.engine.settings import Secret, Settings, load_settings, private_dir

PASSWORD = "correct-horse"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / ".config" / "mrun").mkdir(parents=True)
    return tmp_path


def load(home: Path, options: dict[str, str | None] | None = None, **environ: str) -> Settings:
    return load_settings(options or {}, {"HOME": str(home), **environ}, home / "work")


def write_here(home: Path, text: str) -> Path:
    path = home / "work" / "mrun.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_nothing_said_gives_the_defaults(home: Path):
    settings = load(home)
    assert (settings.broker, settings.namespace, settings.lease_s, settings.slots) == (None, "mrun", 30.0, None)
    assert (settings.durability, settings.password) == ("everysec", None)
    assert settings.origins["lease_s"] == "default"


def test_option_beats_variable_beats_file_here_beats_file_of_the_user(home: Path):
    # Given a namespace said in four places
    user_file = home / ".config" / "mrun" / "mrun.toml"
    user_file.write_text('namespace = "user"')
    assert (load(home).namespace, load(home).origins["namespace"]) == ("user", str(user_file))
    here = write_here(home, 'namespace = "here"')
    assert (load(home).namespace, load(home).origins["namespace"]) == ("here", str(here))
    by_variable = load(home, MRUN_NAMESPACE="variable")
    assert (by_variable.namespace, by_variable.origins["namespace"]) == ("variable", "MRUN_NAMESPACE")
    by_option = load(home, {"namespace": "option"}, MRUN_NAMESPACE="variable")
    assert (by_option.namespace, by_option.origins["namespace"]) == ("option", "option --namespace")


def test_option_that_was_not_given_and_empty_variable_say_nothing(home: Path):
    assert load(home, {"namespace": None}, MRUN_NAMESPACE="").origins["namespace"] == "default"


def test_values_are_typed_from_text_and_from_toml(home: Path):
    settings = load(home, {"lease_s": "12.5"}, MRUN_SLOTS="4", MRUN_DURABILITY="everysec")
    assert (settings.lease_s, settings.slots, settings.durability) == (12.5, 4, "everysec")
    assert settings.origins["lease_s"] == "option --lease"
    write_here(home, "lease_s = 45\nslots = 3")
    settings = load(home)
    assert (settings.lease_s, settings.slots) == (45.0, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("namespace", text) for text in ("a b", "ü", "a" * 65, "a\n", "{a}")),
        *(("lease_s", text) for text in ("0.5", "nan", "inf", "soon", "-3")),
        *(("slots", text) for text in ("0", "1.5", "many")),
        ("durability", "always"),
    ],
)
def test_wrong_value_is_refused_with_its_origin(home: Path, name: str, value: str):
    with pytest.raises(SettingsError) as by_variable:
        load(home, None, **{f"MRUN_{name.upper()}": value})
    assert f"MRUN_{name.upper()}" in by_variable.value.message
    assert by_variable.value.hint
    assert by_variable.value.exit_code == ExitCode.SPEC
    with pytest.raises(UsageError):
        load(home, {name: value})


@pytest.mark.parametrize(
    "line", ['lease_s = "30"', "lease_s = true", "slots = 2.0", "slots = false", "broker = 5", "namespace = []"]
)
def test_wrong_type_in_a_file_is_refused_with_file_and_line(home: Path, line: str):
    path = write_here(home, f"# comment\n{line}\n")
    with pytest.raises(SettingsError) as caught:
        load(home)
    assert caught.value.where == f"{path}:2"


def test_unknown_key_is_refused_with_line_and_nearest_key(home: Path):
    path = write_here(home, 'namespace = "a"\nbrokr = "redis://h:1"\n')
    with pytest.raises(SettingsError) as caught:
        load(home)
    assert caught.value.where == f"{path}:2"
    assert "'broker'" in caught.value.hint


def test_unknown_table_is_refused_and_the_keys_are_told(home: Path):
    write_here(home, "[zzzz]\na = 1\n")
    with pytest.raises(SettingsError, match="zzzz") as caught:
        load(home)
    assert "namespace" in caught.value.hint


def test_password_in_a_file_of_settings_is_told_where_to_go(home: Path):
    write_here(home, f'password = "{PASSWORD}"')
    with pytest.raises(SettingsError) as caught:
        load(home)
    assert "password_file" in caught.value.hint
    assert PASSWORD not in str(caught.value) + caught.value.hint


def test_malformed_toml_is_refused_with_line_and_column(home: Path):
    path = write_here(home, 'namespace = "a"\nbroker =\n')
    with pytest.raises(SettingsError) as caught:
        load(home)
    assert caught.value.where == f"{path}:2:9"
    assert "line 2" not in caught.value.message


def test_file_that_is_not_text_is_refused(home: Path):
    (home / "work" / "mrun.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="can't be read"):
        load(home)


# Directories


def test_directories_follow_xdg(home: Path):
    settings = load(home, XDG_CONFIG_HOME=str(home / "c"), XDG_STATE_HOME=str(home / "s"), XDG_RUNTIME_DIR=str(home))
    assert settings.config_dir == home / "c" / "mrun"
    assert settings.state_dir == home / "s" / "mrun"
    assert settings.runtime_dir == home / "mrun"
    assert settings.origins["runtime_dir"] == "XDG_RUNTIME_DIR"


def test_directories_without_xdg_are_in_the_home_and_the_temporary_directory(home: Path):
    settings = load(home, TMPDIR=str(home), XDG_STATE_HOME="relative/is/ignored", XDG_RUNTIME_DIR=str(home / "gone"))
    assert settings.config_dir == home / ".config" / "mrun"
    assert settings.state_dir == home / ".local" / "state" / "mrun"
    assert settings.runtime_dir == home / f"mrun-{os.getuid()}"


def test_loading_makes_no_directory(home: Path):
    before = sorted(home.rglob("*"))
    load(home, TMPDIR=str(home))
    assert sorted(home.rglob("*")) == before


def test_private_dir_is_made_for_the_user_alone_and_found_again(tmp_path: Path):
    path = private_dir(tmp_path / "deep" / "own")
    assert path.stat().st_mode & 0o777 == 0o700
    assert private_dir(path) == path


def test_private_dir_refuses_link_file_and_open_mode(tmp_path: Path):
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o750)
    for name in ("link", "file", "open"):
        with pytest.raises(SettingsError) as caught:
            private_dir(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_private_dir_refuses_another_users(tmp_path: Path):
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(SettingsError, match="another user"):
        private_dir(tmp_path / "theirs")


# Passwords


def test_secret_shows_itself_to_nobody():
    secret = Secret(PASSWORD)
    assert (repr(secret), str(secret), f"{secret}") == ("***", "***", "***")
    assert secret == Secret(PASSWORD)
    assert secret != Secret("other")
    assert secret.reveal() == PASSWORD
    with pytest.raises(TypeError):
        msgspec.json.encode(secret)


def test_password_comes_from_its_variable(home: Path):
    settings = load(home, MRUN_PASSWORD=PASSWORD)
    assert settings.password == Secret(PASSWORD)
    assert settings.origins["password"] == "MRUN_PASSWORD"
    assert PASSWORD not in repr(settings)


def test_password_comes_from_a_file_named_relative_to_who_names_it(home: Path):
    path = home / ".config" / "mrun" / "secret"
    path.write_text(PASSWORD + "\n")
    path.chmod(0o600)
    (home / ".config" / "mrun" / "mrun.toml").write_text('password_file = "secret"')
    assert load(home).password == Secret(PASSWORD)
    assert load(home, MRUN_PASSWORD_FILE="../.config/mrun/secret").password == Secret(PASSWORD)


def test_password_file_of_an_option_beats_the_variable(home: Path):
    (home / "work" / "secret").write_text(PASSWORD)
    (home / "work" / "secret").chmod(0o600)
    assert load(home, {"password_file": "secret"}, MRUN_PASSWORD="other").password == Secret(PASSWORD)
    assert load(home, MRUN_PASSWORD_FILE="secret", MRUN_PASSWORD="other").password == Secret("other")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_password_file_that_others_can_open_is_refused(home: Path, mode: int):
    path = home / "work" / "secret"
    path.write_text(PASSWORD)
    path.chmod(mode)
    with pytest.raises(SettingsError) as caught:
        load(home, MRUN_PASSWORD_FILE="secret")
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("content", ["", "\n", "two\nlines\n"])
def test_password_file_without_one_line_is_refused(home: Path, content: str):
    path = home / "work" / "secret"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="one line"):
        load(home, MRUN_PASSWORD_FILE="secret")


def test_missing_password_file_is_refused(home: Path):
    with pytest.raises(SettingsError, match="can't be read"):
        load(home, MRUN_PASSWORD_FILE="gone")


ADDRESSES = [
    (f"redis://:{PASSWORD}@h:1/2", "redis://h:1/2"),
    (f"redis://user:{PASSWORD}@h:1", "redis://user@h:1"),
    (f"user:{PASSWORD}@h:1", "user@h:1"),
    (f"unix://:{PASSWORD}@/run/s", "unix:///run/s"),
]


@pytest.mark.parametrize(("given", "kept"), ADDRESSES)
def test_password_in_the_variables_address_is_taken_out(home: Path, given: str, kept: str):
    settings = load(home, MRUN_BROKER=given)
    assert (settings.broker, settings.password) == (kept, Secret(PASSWORD))
    assert settings.origins["password"] == "MRUN_BROKER"
    assert PASSWORD not in repr(settings)


@pytest.mark.parametrize(("given", "kept"), ADDRESSES)
def test_password_in_the_options_address_is_refused_without_showing_it(home: Path, given: str, kept: str):
    with pytest.raises(UsageError) as caught:
        load(home, {"broker": given})
    assert PASSWORD not in f"{caught.value} {caught.value.hint}"
    assert "MRUN_PASSWORD" in caught.value.hint


def test_passwords_signs_may_be_encoded_or_bare(home: Path):
    assert load(home, MRUN_BROKER="redis://:p%40s%2Fs@h:1").password == Secret("p@s/s")
    settings = load(home, MRUN_BROKER="redis://:p@s/s#?x@h:1")
    assert (settings.broker, settings.password) == ("redis://h:1", Secret("p@s/s#?x"))


def test_password_parameter_is_refused_without_showing_it(home: Path):
    with pytest.raises(SettingsError) as caught:
        load(home, MRUN_BROKER=f"redis://h:1?db=1&password={PASSWORD}")
    assert PASSWORD not in f"{caught.value} {caught.value.hint}"


def test_password_in_an_address_in_a_file_needs_a_private_file(home: Path):
    path = write_here(home, f'broker = "redis://:{PASSWORD}@h:1"')
    assert load(home).password == Secret(PASSWORD)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="other users"):
        load(home)


@pytest.mark.parametrize("address", ["redis://h:1", "h:1", "/run/a@b.sock", "unix:///run/a:b@c", "redis://user@h:1"])
def test_address_without_password_is_kept_as_it_is(home: Path, address: str):
    settings = load(home, {"broker": address}, MRUN_PASSWORD=PASSWORD)
    assert (settings.broker, settings.password) == (address, Secret(PASSWORD))
