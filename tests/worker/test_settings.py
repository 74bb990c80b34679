from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from stoker.errors import ConfigError
from stoker.network import is_loopback
from stoker.worker.settings import SocketOptions, WorkerSettings

SECURED = {
    "CONTAINER_ID": "7",
    "MASTER_TOKEN": "very-secret",
    "REPORT_ADDR": "http://a:1/, https://b/base/",
    "PUBLIC_IPADDR": "203.0.113.9",
    "WORKER_PORT": "3000",
    "VAST_TCP_PORT_3000": "41234",
}


def test_the_environment_of_the_existing_protocol_is_read() -> None:
    settings = WorkerSettings.from_environ(SECURED | {"WORKSPACE_DIR": "/w", "MODEL_LOG": "/l"})
    assert settings.worker_id == 7
    assert settings.report_addrs == ("http://a:1", "https://b/base")
    assert settings.public_url(3000) == "http://203.0.113.9:41234"
    assert (settings.state_dir, settings.model_log) == (Path("/w"), "/l")
    assert not settings.tickets_required


def test_the_public_port_is_the_bound_one_where_nothing_maps_it() -> None:
    settings = WorkerSettings.from_environ(
        SECURED | {"WORKER_PORT": "0", "PUBLIC_IPADDR": "::1", "USE_SSL": "true"}
    )
    assert settings.public_url(5555) == "https://[::1]:5555"


def test_the_secret_is_not_in_the_repr() -> None:
    assert "very-secret" not in repr(WorkerSettings.from_environ(SECURED))


@pytest.mark.parametrize("name", ["CONTAINER_ID", "MASTER_TOKEN", "REPORT_ADDR", "PUBLIC_IPADDR"])
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        WorkerSettings.from_environ({k: v for k, v in SECURED.items() if k != name})
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONTAINER_ID", "seven"),
        ("CONTAINER_ID", "-1"),
        ("WORKER_PORT", "70000"),
        ("VAST_TCP_PORT_3000", "0"),
        ("REPORT_ADDR", "a:1"),
        ("REPORT_ADDR", "http://user:pw@a"),
        ("USE_SSL", "maybe"),
        ("STOKER_TICKETS", "yes"),
        ("STOKER_LOG_LEVEL", "loud"),
        ("STOKER_DRAIN_TIMEOUT", "nan"),
        ("STOKER_DRAIN_TIMEOUT", "soon"),
    ],
)
def test_a_wrong_variable_is_named_and_its_value_not_leaked(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        WorkerSettings.from_environ(SECURED | {name: value})
    assert caught.value.field == name
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_an_unsecured_worker_must_be_bound_to_loopback(host: str) -> None:
    with pytest.raises(ConfigError, match="STOKER_HOST"):
        WorkerSettings.from_environ({"UNSECURED": "true", "STOKER_HOST": host})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_an_unsecured_worker_on_loopback_needs_nothing_else(host: str) -> None:
    settings = WorkerSettings.from_environ({"UNSECURED": "true", "STOKER_HOST": host})
    assert settings.unsecured
    assert is_loopback(settings.host)


def test_arguments_of_run_say_where_to_listen_as_far_as_the_environment_does_not() -> None:
    asked = SocketOptions.of({"host": "127.0.0.1", "port": 4000, "shutdown_timeout": 7.5})
    settings = WorkerSettings.from_environ(asked.under({"UNSECURED": "true"}))
    assert (settings.host, settings.port, settings.drain_timeout) == ("127.0.0.1", 4000, 7.5)
    settings = WorkerSettings.from_environ(
        asked.under({"UNSECURED": "true", "WORKER_PORT": "5000", "STOKER_HOST": "127.0.0.2"})
    )
    assert (settings.host, settings.port) == ("127.0.0.2", 5000)


def test_arguments_of_run_may_set_options_of_the_socket_and_tls() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    asked = SocketOptions.of({"backlog": 5, "reuse_port": True, "ssl_context": context})
    assert asked.options == {"backlog": 5, "reuse_port": True}
    assert asked.ssl_context is context
    assert WorkerSettings.from_environ(
        asked.under({"UNSECURED": "true", "STOKER_HOST": "127.0.0.1"})
    ).use_ssl


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"hosts": "::1"}, "run(hosts=)"),
        ({"backlog": "many"}, "run(backlog=)"),
        ({"ssl_context": "/etc/cert"}, "run(ssl_context=)"),
    ],
)
def test_an_argument_of_run_that_cannot_be_used_is_named(
    arguments: dict[str, object], field: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        SocketOptions.of(arguments)
    assert caught.value.field == field


def test_pages_of_any_origin_may_call_a_worker_that_is_only_tried_out() -> None:
    loopback = {"UNSECURED": "true", "STOKER_HOST": "127.0.0.1"}
    assert WorkerSettings.from_environ(loopback).cors_origins == ("*",)
    assert WorkerSettings.from_environ(SECURED).cors_origins == ()
    none = loopback | {"STOKER_CORS_ORIGINS": "none"}
    assert WorkerSettings.from_environ(none).cors_origins == ()
    two = SECURED | {"STOKER_CORS_ORIGINS": "https://a.example, https://b.example"}
    assert WorkerSettings.from_environ(two).cors_origins == (
        "https://a.example",
        "https://b.example",
    )


def test_what_an_operator_opens_to_sessions_is_read() -> None:
    settings = WorkerSettings.from_environ(
        SECURED
        | {
            "STOKER_SESSION_IDLE_TIMEOUT": "30",
            "STOKER_SESSION_CLOSE_ROUTES": "/close, /sessions/*",
            "STOKER_METRICS_KEY": "the key of the scraper",
        }
    )
    assert settings.session_idle_timeout == 30.0
    assert settings.session_close_routes == ("/close", "/sessions/*")
    assert settings.metrics_key == "the key of the scraper"
    assert "scraper" not in repr(settings)
    assert WorkerSettings.from_environ(SECURED).session_idle_timeout == 120.0
    with pytest.raises(ConfigError, match="STOKER_SESSION_CLOSE_ROUTES"):
        WorkerSettings.from_environ(SECURED | {"STOKER_SESSION_CLOSE_ROUTES": "close"})
