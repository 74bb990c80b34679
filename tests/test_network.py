from __future__ import annotations

import pytest

from stoker import logs, network
from stoker.errors import ConfigError
from stoker.network import (
    is_loopback,
    is_this_machine,
    listening_host,
    proxy_for,
    proxy_of,
)

PROXY = "http://user:hunter22@proxy.lan:3128"
HERE = [
    *("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LocalHost.", "a.localhost"),
    *("::ffff:127.0.0.1", "127.1", "2130706433", "0.0.0.0", "::"),
]
ELSEWHERE = ["10.0.0.1", "example.org", "localhost.example.org", "", "1.0.0.127"]


@pytest.mark.parametrize("host", HERE)
def test_calls_to_this_machine_never_go_through_a_proxy(host: str) -> None:
    assert is_this_machine(host)
    assert proxy_for(host, PROXY) is None


@pytest.mark.parametrize("host", ELSEWHERE)
def test_calls_to_other_machines_go_through_the_proxy_that_was_asked_for(host: str) -> None:
    assert not is_this_machine(host)
    assert proxy_for(host, PROXY) == PROXY
    assert proxy_for(host, "") is None


def test_a_socket_on_all_addresses_is_not_loopback() -> None:
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("::")


def test_only_our_own_variable_names_a_proxy() -> None:
    others = dict.fromkeys(["HTTP_PROXY", "https_proxy", "ALL_PROXY"], "socks5://127.0.0.1:9")
    assert proxy_of(others) == ""
    assert proxy_of({**others, "STOKER_PROXY": PROXY}) == PROXY


@pytest.mark.parametrize(
    "url", ["socks5://u:hunter22@h:9", "proxy.lan:3128", "http://", "http://[x"]
)
def test_what_is_no_proxy_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="must be the URL of an HTTP proxy") as caught:
        proxy_of({"STOKER_PROXY": url})
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    ("report_addr", "public_host", "host"),
    [
        ("http://127.0.0.1:8700", "", "127.0.0.1"),
        ("http://localhost:8700, http://[::1]:8700", "127.0.0.1", "127.0.0.1"),
        ("http://127.0.0.1:8700", "203.0.113.7", "0.0.0.0"),
        ("http://127.0.0.1:8700,https://plane.example", "127.0.0.1", "0.0.0.0"),
        ("https://plane.example", "", "0.0.0.0"),
        ("", "", "0.0.0.0"),
    ],
)
def test_a_worker_that_only_this_machine_knows_listens_on_it_alone(
    report_addr: str, public_host: str, host: str
) -> None:
    assert listening_host(report_addr, public_host) == host


def test_a_proxys_password_is_kept_out_of_every_log_line():
    network.checked_proxy("http://user:a-long-password@proxy.lan:3128")
    assert logs.without("said a-long-password", logs._known_secrets) == "said ***"
