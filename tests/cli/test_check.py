"""What can be known of a settings file without starting anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.cli.check import active_when_idle, examine, held_when_idle
from stoker.cli.initial import toml
from stoker.cli.reference import keys_of
from stoker.cli.settings import (
    MAX_FILES,
    EndpointSettings,
    LocalSettings,
    ServerSettings,
    WorkergroupSettings,
)
from stoker.simulator.settings import SimulatorSettings
from stoker.wire import FILE_DEFAULTS, EndpointParameters

GOOD = """
[[endpoint]]
name = "chat"
max_workers = 2
[[endpoint.workergroup]]
backend = "hello-world"
"""


def look(folder: Path, text: str, *, machine: bool = True) -> list[str]:
    file = folder / "stoker.toml"
    file.write_text(text)
    report = examine(file, machine=machine)
    assert (report.settings is None) == bool(report.errors)
    prefix = f"{file}:"
    return [f"{f.level} {str(f).removeprefix(prefix)}" for f in report.findings]


def endpoint(text: str, group: str = 'backend = "hello-world"') -> str:
    return f'[[endpoint]]\nname = "a"\n{text}\n[[endpoint.workergroup]]\n{group}\n'


def test_a_good_file_has_nothing_to_tell(tmp_path: Path) -> None:
    assert look(tmp_path, GOOD) == []


def test_everything_that_is_wrong_is_told_at_once_with_its_line_and_what_to_do(
    tmp_path: Path,
) -> None:
    found = look(
        tmp_path,
        """
[server]
prot = 1
[[endpoint]]
name = "a"
max_worker = 3
min_workers = 1
cold_workers = 5
max_workers = 2
target_util = 1.5
[[endpoint.workergroup]]
backend = "hello-wrld"
[[endpoint.workergroup]]
backend = "vllm"
options = { model = "m", dtype = "int3", max_model_len = 3 }
weight = -1
[[endpoint]]
name = "a"
min_load = "much"
""",
    )
    places = {line.partition(": ")[0] + " " + line.split(": ")[1] for line in found}
    assert places >= {
        "error 3 server.prot",
        "error 6 endpoint[0].max_worker",
        "error 7 endpoint[0].min_workers",
        "error 10 endpoint[0].target_util",
        "error 12 endpoint[0].workergroup[0].backend",
        "error 15 endpoint[0].workergroup[1].options.dtype",
        "error 15 endpoint[0].workergroup[1].options.max_model_len",
        "error 16 endpoint[0].workergroup[1].weight",
        "error 18 endpoint[1].name",
        "error 19 endpoint[1].min_load",
    }
    text = "\n".join(found)
    assert "did you mean 'max_workers'?" in text
    assert "here it is called 'cold_workers'" in text
    assert "did you mean 'hello-world'?" in text
    assert "Floor of active capacity" in text  # what the setting is, beside what is wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cold_workers = 5\nmax_workers = 2", "cold_workers: 5 workers cannot be kept"),
        (
            "cold_workers = 20",
            "cold_workers: 20 workers cannot be kept where max_workers is 16, ",
        ),
        (
            "cold_workers = -1",
            'cold_workers: must be a whole number from 0, or "auto", not -1',
        ),
        (
            'cold_workers = "atuo"',
            'cold_workers: must be a whole number from 0, or "auto", not "atuo"',
        ),
        (
            "cold_workers = 1.5",
            'cold_workers: must be a whole number from 0, or "auto", not 1.5',
        ),
        ("cold_workers = 100001", "cold_workers: must be at most 100000"),
        ("min_load = 5\nmax_workers = 0", "min_load: no load can be served"),
        ("min_cold_load = 5\nmax_workers = 0", "min_cold_load: no load can be served"),
        ("min_load = 9e8", "min_load: 9e+08 load units per second are more than 16 workers"),
        ("min_cold_load = 9e8", "min_cold_load: 9e+08 load units per second are more than 16 "),
        ("min_load = -1", "min_load: must be a number from 0"),
        ("min_load = nan", "min_load: must be a number from 0"),
        ("target_util = 0.0", "target_util: must be above 0"),
        ("cold_mult = 0.5", "cold_mult: must be from 1"),
        ("max_workers = 1.5", "max_workers: expected int, got float (Hard cap"),
        ('endpoint_state = "x"', "endpoint_state: must be one of 'active'"),
    ],
)
def test_a_contradiction_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    found = [f for f in look(tmp_path, endpoint(text)) if f.startswith("error")]
    assert len(found) == 1
    assert f"endpoint[0].{said}" in found[0]


@pytest.mark.parametrize(
    "text", ['cold_workers = "auto"', 'cold_workers = "auto"\nmax_workers = 1']
)
def test_as_many_as_pay_contradicts_nothing(tmp_path: Path, text: str) -> None:
    assert look(tmp_path, endpoint(text)) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_workers = 0", "no worker is ever started"),
        ("inactivity_timeout = 5\nmin_load = 1", "has no effect while min_load"),
        ("target_queue_time = 40", "is above max_queue_time 30"),
        ('endpoint_state = "stopped"\nmin_load = 1', "has no effect while endpoint_state"),
        ("cold_workers = 16", "has room for"),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(
    tmp_path: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    (found,) = look(tmp_path, endpoint(text))
    assert found.startswith("warning")
    assert said in found


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ('backend = "vllm"\noptions = { model = "m", program = "no-vllm" }', "'no-vllm' is not th"),
        ('backend = "vllm"', "options.model: is required"),
        ('backend = "llamacpp"\noptions = { model = "m.gguf" }', "{folder}/m.gguf"),
        (
            'backend = "vllm"\noptions = { model = "./m", program = "/bin/sh" }',
            "options.model: there is no file or directory {folder}/m",
        ),
        (
            'backend = "vllm"\noptions = { model = "/no/m", program = "/bin/sh" }',
            "options.model: there is no file or directory /no/m",
        ),
        ('backend = "./mine.py"', "there is no file {folder}/mine.py"),
        ('backend = "hello-world"\nweight = 0', "every workergroup has weight 0"),
        ('backend = "hello-world"\nmax_workers = 99', "is never reached: the endpoint has"),
        ('backend = "hello-world"\nuse_ssl = true\nssl_cert = "c.pem"', "{folder}/c.pem"),
        ('backend = "hello-world"\nssl_cert = "c.pem"', "ssl_key: is required"),
        ('backend = "hello-world"\nworker_file = "w.py"', "there is no file {folder}/w.py"),
        ('backend = "hello-world"\nfiles = { "a" = "b" }', "{folder}/b: No such file"),
        ('backend = "hello-world"\nfiles = { "a" = "/dev/zero" }', "/dev/zero is no regular file"),
        ('backend = "hello-world"\nfiles = { "/a" = "b" }', "within the instance's directory"),
        ('backend = "hello-world"\nenv = { "A=B" = "x" }', "cannot be an environment variable"),
        (
            'backend = "hello-world"\nsteps = [{ kind = "download", url = "x", sha256 = "", '
            'destination = "y" }]',
            "workergroup[0].steps[0].url: holds a URL without a host",
        ),
        (
            'backend = "hello-world"\nsteps = [{ kind = "pipp" }]',
            "steps[0].kind: must be one of",
        ),
        (
            'backend = "hello-world"\nsteps = [{ kind = "pip", package = ["x"] }]',
            "steps[0].package: unknown setting; did you mean 'packages'?",
        ),
        ('backend = "hello-world"\nsupervision = { hang_after = -1.0 }', "supervision.hang_after"),
        *(
            (f'backend = "hello-world"\nsupervision.{name} = {value}', f"supervision.{name}: must")
            for name, values in {
                "health_interval": ("0", "nan", "inf", "1e300"),
                "health_timeout": ("0",),
                "start_timeout": ("0",),
                "hang_after": ("0",),
                "silence_timeout": ("0",),
                "report_interval": ("0",),
                "restart_delay": ("-1", "1e300"),
                "stop_grace": ("inf",),
                "unhealthy_checks": ("0", "-1"),
                "log_bytes": ("0", "-1"),
            }.items()
            for value in values
        ),
        *(
            (f'backend = "hello-world"\ndirectories = {paths}', "directories[0]: " + problem)
            for paths, problem in {
                '["../x"]': "leads out of the instance's directory",
                '["a/../../x"]': "leads out of the instance's directory",
                '[{ path = "../x" }]': "leads out of the instance's directory",
                '[""]': "must be a path",
                '["setup/x"]': "'setup' in the instance's directory is Stoker's own",
            }.items()
        ),
        *(
            (f'backend = "hello-world"\nsteps = [{{ {step} }}]', f"steps[0].{problem}")
            for step, problem in {
                'kind = "write", path = "../../y", text = "x"': "path: leads out",
                'kind = "write", path = "y/", text = "x"': "path: must be the path of a file",
                'kind = "write", path = "lock", text = "x"': "path: 'lock' in the instance's",
                'kind = "git", url = "https://a/b", destination = "../y"': "destination: leads out",
                'kind = "pip", packages = ["x"], venv = "../y"': "venv: leads out",
                'kind = "run", command = ["x"], directory = "../y"': "directory: leads out",
                'kind = "run", command = [" "]': "command: must name a program",
                'kind = "run", command = ["x"], timeout = 1e300': "timeout: must be more than 0",
            }.items()
        ),
        ('backend = "hello-world"\nfiles = { "../a" = "b" }', "within the instance's directory"),
        ('backend = "hello-world"\nfiles = { "manifest.json" = "b" }', "is Stoker's own"),
        ('backend = "hello-world"\nhost = ""', "workergroup[0].host: must be a name"),
        ('backend = "hello-world"\npublic_host = "a:5"', "public_host: must be a name"),
        ('backend = "hello-world"\npublic_host = "0.0.0.0"', "public_host: is no address that"),
        ('backend = "hello-world"\nenv = { A = "a\\u0000" }', "env.A: must not hold a zero byte"),
        ('backend = "hello-world"\nenv = { WORKER_PORT = "5" }', "is what the launcher itself"),
    ],
)
def test_what_a_workergroup_cannot_have_is_named(tmp_path: Path, group: str, said: str) -> None:
    found = "\n".join(look(tmp_path, endpoint("", group)))
    assert said.format(folder=tmp_path) in found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nport = 99999", "server.port: expected int <= 65535"),
        ('[server]\nhost = "a b"', "server.host: must be an address"),
        ('[server]\nhost = "127.0.0.1:8700"', "server.host: must be an address"),
        ('[server]\nhost = "[::1]"', "server.host: must be an address"),
        ('[server]\nstate = "~nobody-of-that-name/x"', "server.state: nobody knows the home"),
        ('[server]\npublic_url = "here"', "server.public_url: must be an http"),
        ('[server]\ncertificate = "c.pem"', "server.certificate: HTTPS needs both"),
        ('[server]\nstate = "stoker.toml"', "stoker.toml is no directory"),
        ("[provider.local]\nmax_instances = 0", "max_instances: must be at least 1"),
        ("[provider.local]\nmax_instances = 1000000", "max_instances: must be at most 100000"),
        ("[provider.local]\nowner_timeout = inf", "owner_timeout: must be 0 seconds or more"),
        ('[server]\nstate = ""', "server.state: must not be empty"),
        ('[server]\nstate = "a\\u0000b"', "server.state: must not hold a zero byte"),
        ('[server]\ncertificate = " "', "server.certificate: must not be empty"),
        ('[server]\ntimezone = "Europe/Berln"', "server.timezone: 'Europe/Berln' is no time zone"),
        ('[server]\npublic_url = "http://a:0"', "server.public_url: has port 0"),
        ('[server]\npublic_url = "http://a:70000"', "server.public_url: is no URL"),
        ('[server]\npublic_url = "http://a?b"', "public_url: must not have a query"),
        ('[server]\ncors_origins = [""]', "cors_origins: must not have an empty origin"),
        ("[provider.local]\nowner_timeout = -1.0", "owner_timeout: must be 0 seconds or more"),
        ("[simulator]\nperf = -1.0", "simulator.perf: must be above 0"),
        ('[[endpoint]]\nname = "a/b"', "endpoint[0].name: must be printable, without a slash"),
        ('[endpoint]\nname = "a"', "write [[endpoint]], with two brackets"),
        ('[[endpoint]]\nname = "a"', "has no workergroup"),
    ],
)
def test_what_else_cannot_be_is_named(tmp_path: Path, text: str, said: str) -> None:
    assert said in "\n".join(look(tmp_path, text))


def test_a_number_of_instances_that_cannot_be_is_told_once(tmp_path: Path) -> None:
    group = endpoint("cold_workers = 2", 'backend = "hello-world"')
    (found,) = look(tmp_path, f"[provider.local]\nmax_instances = -3\n{group}")
    assert "max_instances: must be at least 1" in found


def test_a_load_that_no_number_of_workers_gives_is_known_where_the_options_tell(
    tmp_path: Path,
) -> None:
    group = 'backend = "simulated"\noptions = { slots = 2, slot_speed = 50.0 }'
    assert look(tmp_path, endpoint("min_load = 200\nmax_workers = 2", group)) == []
    (found,) = look(tmp_path, endpoint("min_load = 201\nmax_workers = 2", group))
    assert "more than 2 workers (max_workers) can do, at 100 each" in found
    (found,) = look(tmp_path, endpoint("min_load = 101", group + "\nmax_workers = 1"))
    assert "more than 1 workers" in found


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("no certificate")
    (found,) = look(tmp_path, '[server]\ncertificate = "c.pem"\ncertificate_key = "k.pem"\n')
    assert "server.certificate: cannot be used with certificate_key" in found


def test_two_workergroups_of_one_name_are_refused_and_unnamed_ones_are_numbered(
    tmp_path: Path,
) -> None:
    group = '[[endpoint.workergroup]]\nbackend = "hello-world"\n'
    assert look(tmp_path, f'[[endpoint]]\nname = "a"\n{group}{group}') == []
    named = group + 'name = "x"\n'
    (found,) = look(tmp_path, f'[[endpoint]]\nname = "a"\n{named}{named}')
    assert found == (
        "error 8: endpoint[0].workergroup[1].name: 'x' is there twice (line 5): names are unique"
    )


def test_what_a_step_may_bring_is_a_warning(tmp_path: Path) -> None:
    text = endpoint(
        "",
        'backend = "vllm"\noptions = { model = "m", program = "no-vllm" }\n'
        'steps = [{ kind = "pip", packages = ["vllm"] }]',
    )
    found = look(tmp_path, text)
    assert [line.partition(" ")[0] for line in found] == ["warning"]


def test_whether_this_machine_can_run_it_is_asked_only_where_it_runs_here(tmp_path: Path) -> None:
    text = endpoint("", 'backend = "vllm"\noptions = { model = "m", program = "no-vllm" }')
    assert look(tmp_path, text, machine=False) == []
    elsewhere = "[provider.local]\nenabled = false\n" + text
    assert not [line for line in look(tmp_path, elsewhere) if line.startswith("error")]


def test_relative_paths_start_from_the_file(tmp_path: Path) -> None:
    for name in ("c.pem", "k.pem", "conf.yaml", "m.gguf"):
        (tmp_path / name).write_text(f"this is {name}")
    text = """
[server]
state = "state"
[[endpoint]]
name = "a"
[[endpoint.workergroup]]
backend = "llamacpp"
options = { model = "m.gguf" }
files = { "etc/conf.yaml" = "conf.yaml" }
ssl_cert = "c.pem"
ssl_key = "k.pem"
env = { PLACE = "{directory}/x" }
[[endpoint.workergroup]]
backend = "vllm"
options = { model = "org/name", program = "bin/vllm" }
"""
    file = tmp_path / "stoker.toml"
    file.write_text(text)
    report = examine(file, machine=False)
    assert report.settings is not None
    assert report.settings.server.state == str(tmp_path / "state")
    first, second = report.settings.endpoint[0].wanted(report.folder)["workergroups"]
    assert first["options"] == {"model": str(tmp_path / "m.gguf")}
    assert first["instance"]["ssl_cert"] == str(tmp_path / "c.pem")
    assert first["instance"]["env"] == {"PLACE": "{directory}/x"}
    (step,) = first["instance"]["steps"]
    assert (step["kind"], step["path"], step["text"]) == (
        "write",
        "etc/conf.yaml",
        "this is conf.yaml",
    )
    assert second["options"] == {"model": "org/name", "program": str(tmp_path / "bin/vllm")}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory: `stoker init` writes one"),
        (b"[server\nport = 1", ":1: not valid TOML"),
        (b"[server]\nport = \nhost = 1", ":2: not valid TOML"),
        (b"[server]\nport = " + b"9" * 5000, ":1: not valid TOML: a number has thousands of"),
        (b"a = '''", "not valid TOML"),
        (b"\xff\xfe\x00", "is not UTF-8 text (byte 0)"),
        (b"x" * (2**20 + 1), "is larger than"),
        (b"a = " + b"[" * 10_000, "not valid TOML"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "stoker.toml"
    if content is not None:
        file.write_bytes(content)
    (finding,) = examine(file).findings
    assert said in str(finding)
    assert "\n" not in str(finding)


def test_a_directory_is_no_settings_file(tmp_path: Path) -> None:
    (finding,) = examine(tmp_path).findings
    assert f"is a directory: name the file in it, such as {tmp_path}/stoker.toml" in str(finding)


def test_by_default_nothing_is_held_and_the_protocols_defaults_hold_five() -> None:
    assert held_when_idle(EndpointParameters(**FILE_DEFAULTS)) == 0
    protocol = EndpointParameters()
    assert (active_when_idle(protocol), held_when_idle(protocol)) == (1, 5)
    never = EndpointParameters(**FILE_DEFAULTS, inactivity_timeout=-1)
    assert (active_when_idle(never), held_when_idle(never)) == (1, 1)


# -- whatever a file holds -------------------------------------------------------------------------

scalars = st.one_of(
    st.none().map(lambda _: ""),
    st.booleans(),
    st.integers(-5, 10**12),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.sampled_from(["a", "hello-world", "vllm", "./x.py", "{directory}/y", "http://h", "/"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=4,
)


def table(struct: Any, **more: Any) -> Any:
    """A table with some of its keys, an unknown one, and values that mostly do not fit."""
    keys = {key.name: values for key in keys_of(struct)} | {"unknwn": scalars} | more
    return st.fixed_dictionaries({}, optional=keys)


step = st.fixed_dictionaries(
    {},
    optional={"kind": st.sampled_from(["pip", "run", "x"]), "packages": values, "timeout": values},
)
groups = table(
    WorkergroupSettings,
    backend=st.sampled_from(["hello-world", "vllm", "no", "./no.py", 3]),
    steps=st.lists(step, max_size=2),
)
endpoints = table(EndpointSettings, workergroup=st.one_of(values, st.lists(groups, max_size=2)))
documents = st.fixed_dictionaries(
    {},
    optional={
        "server": st.one_of(values, table(ServerSettings)),
        "provider": st.one_of(values, st.fixed_dictionaries({"local": table(LocalSettings)})),
        "endpoint": st.one_of(values, st.lists(endpoints, max_size=2)),
        "simulator": st.one_of(values, table(SimulatorSettings)),
    },
)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@given(documents)
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_no_file_makes_the_check_fail_itself_and_what_it_passes_can_be_used(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    file = tmp_path / "stoker.toml"
    file.write_text("\n".join(f"{name} = {toml(value)}" for name, value in document.items()))
    for machine in (False, True):
        report = examine(file, machine=machine)
        assert (report.settings is None) == bool(report.errors)
        for finding in report.findings:
            assert "\n" not in str(finding)
    if report.settings is not None:
        for endpoint in report.settings.endpoint:
            endpoint.wanted(report.folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\x00", "is no text: have a step download it"),
        (b"x" * (MAX_FILES + 1), f"have more than {MAX_FILES} bytes"),
    ],
)
def test_a_file_for_an_instance_must_be_a_small_text(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "b").write_bytes(content)
    group = 'backend = "hello-world"\nfiles = { "a" = "b" }'
    (found,) = look(tmp_path, endpoint("", group))
    assert "endpoint[0].workergroup[0].files.a" in found
    assert said in found


def test_a_file_for_an_instance_keeps_its_right_to_be_run(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    group = WorkergroupSettings(backend="hello-world", files={"run.sh": "run.sh"})
    (step,) = group.instance(tmp_path)["steps"]
    assert step["mode"] == "0755"


@pytest.mark.parametrize("faulty", ["command", "requires"])
def test_a_backend_of_ones_own_whose_code_fails_is_named(tmp_path: Path, faulty: str) -> None:
    parts = {"command": "lambda o, h, p: []", "worker_config": "None", faulty: "lambda *_: {}[1]"}
    more = ", ".join(f"{name}={code}" for name, code in parts.items())
    (tmp_path / "mine.py").write_text(
        "import msgspec\nfrom stoker.backends import Backend\n"
        "class Options(msgspec.Struct, forbid_unknown_fields=True): pass\n"
        f'BACKEND = Backend(name="mine", description="", options=Options, {more})\n'
    )
    (found,) = look(tmp_path, endpoint("", 'backend = "mine.py"'))
    assert found.endswith("backend: mine: its code fails: KeyError: 1")
