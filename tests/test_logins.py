"""Which control plane and which key are used, and how they are kept."""

import os
import stat

import pytest

from stoker import logins
from stoker.client import Client
from stoker.errors import ConfigError, NotFoundError

ONE, TWO = "https://one.example.com", "http://127.0.0.1:8701"


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("STOKER_URL", "STOKER_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_without_anything_it_says_how_to_log_in():
    with pytest.raises(ConfigError, match="STOKER_API_KEY: is not set.*stoker login http://127"):
        logins.find()


def test_a_login_is_found_again_and_only_its_owner_can_read_it():
    logins.save(ONE, "key-one")
    assert logins.find() == (ONE, "key-one", "one.example.com")
    assert stat.S_IMODE(logins.path().stat().st_mode) == 0o600
    assert stat.S_IMODE(logins.path().parent.stat().st_mode) == 0o700


def test_the_last_login_is_used_and_others_by_name_or_address():
    logins.save(ONE, "key-one", "work")
    logins.save(TWO, "key-two")
    assert logins.find()[:2] == (TWO, "key-two")
    assert logins.find("work") == (ONE, "key-one", "work")
    assert logins.find(ONE + "/")[1] == "key-one"
    logins.use("work")
    assert logins.find()[:2] == (ONE, "key-one")


def test_the_environment_comes_before_a_login_and_an_argument_before_both(monkeypatch):
    logins.save(ONE, "key-one", "work")
    monkeypatch.setenv("STOKER_URL", TWO)
    monkeypatch.setenv("STOKER_API_KEY", "key-env")
    assert logins.find() == (TWO, "key-env", None)
    assert logins.find(ONE) == (ONE, "key-env", None)
    assert logins.find("work") == (ONE, "key-one", "work")
    assert logins.find("work", "given") == (ONE, "given", None)
    assert logins.find(api_key="given") == (TWO, "given", None)


def test_a_key_from_the_environment_is_never_sent_to_the_address_of_a_login(monkeypatch):
    logins.save(ONE, "key-one")
    monkeypatch.setenv("STOKER_API_KEY", "key-env")
    assert logins.find() == (logins.DEFAULT_URL, "key-env", None)


def test_a_logins_key_is_never_sent_to_another_address(monkeypatch):
    logins.save(ONE, "key-one")
    monkeypatch.setenv("STOKER_URL", TWO)
    with pytest.raises(ConfigError, match=f"no login for {TWO}"):
        logins.find()
    with pytest.raises(ConfigError, match="no login for"):
        logins.find("https://one.example.com:444")


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("HTTP://Host.Example:80/", "http://host.example:80"),
        ("http://[::1]:8700", "http://[::1]:8700"),
        (" http://h/api/ ", "http://h/api"),
    ],
)
def test_an_address_is_compared_without_what_makes_no_difference(written, same):
    assert logins.normalized(written) == same


@pytest.mark.parametrize(
    "url", ["ftp://h", "http://", "http://u:p@h", "http://h?a=b", "http://h:x"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match="URL"):
        logins.save(url, "key")
    assert not logins.path().exists()


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_a_file_that_others_can_reach_is_refused_and_mended_by_the_next_login(mode):
    logins.save(ONE, "key-one")
    logins.path().chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        logins.find()
    logins.save(TWO, "key-two")
    assert stat.S_IMODE(logins.path().stat().st_mode) == 0o600
    assert logins.find(ONE)[1] == "key-one"


@pytest.mark.parametrize("text", ["{", '{"logins": [5]}', '{"more": ' + "[" * 100_000])
def test_a_damaged_file_is_named(text):
    logins.save(ONE, "key-one")
    logins.path().write_text(text)
    with pytest.raises(ConfigError, match=r"logins\.json: is damaged"):
        logins.find()


def test_without_a_home_directory_there_is_no_place_for_the_file(monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative/paths/count/for/nothing")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ConfigError, match="HOME: is not set"):
        logins.find()


def test_a_fifo_in_the_place_of_the_file_does_not_hang():
    logins.path().parent.mkdir(parents=True)
    os.mkfifo(logins.path(), 0o600)
    with pytest.raises(ConfigError, match="is no file"):
        logins.find()


def test_a_link_to_the_file_stays_a_link(tmp_path):
    kept = tmp_path / "dotfiles.json"
    logins.save(ONE, "key-one")
    logins.path().rename(kept)
    logins.path().symlink_to(kept)
    logins.save(TWO, "key-two")
    assert logins.path().is_symlink()
    assert "key-two" in kept.read_text()


def test_two_logins_do_not_share_a_name():
    logins.save(ONE, "key-one", "work")
    with pytest.raises(ConfigError, match="'work'"):
        logins.save(TWO, "key-two", "work")


def test_a_new_key_for_an_address_takes_the_place_of_the_former_one():
    logins.save(ONE, "key-one", "work")
    logins.save(ONE, "key-new")
    assert logins.find("work")[1] == "key-new"
    assert len(logins.logins()[0]) == 1


def test_a_login_is_forgotten_and_the_one_before_is_used():
    logins.save(ONE, "key-one")
    logins.save(TWO, "key-two")
    assert logins.remove(None).url == TWO
    assert logins.find()[0] == ONE
    logins.remove(ONE)
    assert not logins.path().exists()
    with pytest.raises(NotFoundError):
        logins.remove(None)


def test_no_login_shows_its_key():
    assert "secret" not in repr(logins.save(ONE, "the-secret-key"))


async def test_a_client_without_arguments_uses_the_login():
    logins.save(TWO, "key-two")
    async with Client() as client:
        assert client.url == TWO
        assert client._authorization == {"authorization": "Bearer key-two"}


def test_blanks_around_what_the_environment_gives_count_for_nothing(monkeypatch):
    monkeypatch.setenv("STOKER_URL", f" {ONE}\n")
    monkeypatch.setenv("STOKER_API_KEY", "key-one\r\n")
    assert logins.find() == (ONE, "key-one", None)


def test_a_file_of_another_user_is_not_believed(monkeypatch):
    logins.save(ONE, "key-one")
    if os.geteuid() == 0:
        os.chown(logins.path(), 65534, 65534)
    else:
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(ConfigError, match="belongs to another user"):
        logins.find()
