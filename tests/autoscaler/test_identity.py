import resource
import stat

import pytest

from stoker.autoscaler.identity import Identity, Keyring, hash_key, new_api_key
from stoker.errors import ConfigError


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


def test_a_key_leads_to_its_bearer():
    ring, account = Keyring(), new_api_key()
    ring.replace([hash_key(account)], [(7, "endpoint key")])
    assert ring.authenticate(account).kind == "account"
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
    ring.replace([hash_key("k")], [])
    ring.replace([], [])
    assert ring.authenticate("k") is None
