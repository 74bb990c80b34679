import resource
import stat

import pytest

from stoker.autoscaler.identity import Identity, Keyring, hash_key, new_api_key
from stoker.errors import ConfigError
from stoker.store import ApiKeyRecord


def test_secrets_are_made_once_and_found_again(tmp_path):
    first, second = Identity.open(tmp_path), Identity.open(tmp_path)
    assert first.worker_token(1, "n") == second.worker_token(1, "n")
    assert first.signer.public_pem == second.signer.public_pem


def test_secret_files_are_readable_by_their_owner_alone(tmp_path):
    Identity.open(tmp_path / "state")
    for file in (tmp_path / "state").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_tokens_of_workers_endpoints_and_nonces_differ(tmp_path):
    identity = Identity.open(tmp_path)
    tokens = {
        identity.worker_token(1, "n"),
        identity.worker_token(2, "n"),
        identity.worker_token(1, "m"),
        identity.endpoint_key(1, "n"),
    }
    assert len(tokens) == 4


@pytest.mark.parametrize("name", ["secret.key", "signing.pem"])
def test_a_damaged_secret_file_is_an_error_that_names_it(tmp_path, name):
    Identity.open(tmp_path)
    (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=name):
        Identity.open(tmp_path)


@pytest.mark.parametrize("name", ["secret.key", "signing.pem"])
@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_a_secret_that_others_can_reach_is_not_used(tmp_path, name, mode):
    Identity.open(tmp_path)
    (tmp_path / name).chmod(mode)
    with pytest.raises(ConfigError, match=f"{name}.*chmod 600"):
        Identity.open(tmp_path)


def test_a_disk_that_is_full_leaves_nothing_behind_and_the_next_start_works(tmp_path):
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, former[1]))  # writing fails: the file is too big
    try:
        with pytest.raises(ConfigError, match="secret.key"):
            Identity.open(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert list(tmp_path.iterdir()) == []
    Identity.open(tmp_path)


def record(key, number=1, **more):
    return ApiKeyRecord(
        id=number, sha256=hash_key(key), name=f"key-{number}", created_at=0.0, **more
    )


def test_a_key_leads_to_its_bearer():
    ring, account = Keyring(), new_api_key()
    ring.replace([record(account), record("beside", 2, endpoint_id=7)], [(7, "endpoint key")])
    assert ring.authenticate(account).kind == "account"
    assert ring.authenticate("beside").endpoint_id == 7
    assert ring.authenticate("endpoint key").endpoint_id == 7
    assert ring.authenticate("stranger") is None


def test_the_key_of_one_endpoint_does_not_open_another():
    ring = Keyring()
    ring.replace([], [(7, "k")])
    bearer = ring.authenticate("k")
    assert bearer.may_use(7)
    assert not bearer.may_use(8)


def test_a_removed_key_is_a_strangers():
    ring = Keyring()
    ring.replace([record("k")], [])
    bearer = ring.authenticate("k")
    assert ring.is_good(bearer)
    ring.replace([], [])
    assert ring.authenticate("k") is None
    assert not ring.is_good(bearer)


def test_a_key_ends_at_its_time_without_being_read_again():
    now = [100.0]
    ring = Keyring(lambda: now[0])
    ring.replace([record("k", expires_at=110.0)], [])
    bearer = ring.authenticate("k")
    now[0] = 109.9
    assert ring.authenticate("k") == bearer
    now[0] = 110.0
    assert ring.authenticate("k") is None
    assert not ring.is_good(bearer)


def test_the_keyring_knows_when_keys_were_used():
    now = [100.0]
    ring = Keyring(lambda: now[0])
    ring.replace([record("k", 3), record("unused", 4)], [(7, "own")])
    ring.authenticate("k")
    now[0] = 105.0
    ring.authenticate("own")
    ring.authenticate("stranger")
    assert ring.used_since(0.0) == ({3: 100.0}, {7: 105.0})
    assert ring.used_since(101.0) == ({}, {7: 105.0})
    assert ring.used_at(hash_key("unused")) is None
