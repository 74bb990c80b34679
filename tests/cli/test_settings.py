import pytest

from stoker.cli.settings import Settings, default_state_directory, load
from stoker.errors import ConfigError


def problem(tmp_path, text):
    file = tmp_path / "stoker.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    return str(caught.value)


def test_without_a_file_the_defaults_hold():
    assert load(None) == Settings()


def test_a_whole_file_is_read(tmp_path):
    file = tmp_path / "stoker.toml"
    file.write_text(
        """
        [server]
        port = 9000
        [provider.local]
        max_instances = 3
        [[endpoint]]
        name = "chat"
        min_load = 0
        [[endpoint.workergroup]]
        backend = "llamacpp"
        options = { parallel = 2 }
        """
    )
    settings = load(file)
    assert settings.server.port == 9000
    assert settings.provider.local.max_instances == 3
    assert settings.endpoint[0].given() == {"min_load": 0.0}
    assert settings.endpoint[0].workergroup[0].options == {"parallel": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sever]", "sever: unknown setting; did you mean 'server'?"),
        ("[server]\nprot = 1", "server.prot: unknown setting; did you mean 'port'?"),
        (
            '[[endpoint]]\nname = "a"\nmax_worker = 2',
            "endpoint[0].max_worker: unknown setting; did you mean 'max_workers'?",
        ),
        ("[[endpoint]]\nmin_load = 1", "endpoint[0].name: is required"),
        ('[[endpoint]]\nname = "a"\ntarget_util = 2.0', "endpoint[0].target_util: must be above 0"),
        (
            '[[endpoint]]\nname = "a"\nendpoint_state = "x"',
            "endpoint[0].endpoint_state: must be one of 'active', 'suspended', 'stopped'",
        ),
        (
            '[[endpoint]]\nname = "a"\n[[endpoint]]\nname = "a"',
            "endpoint[1].name: 'a' is there twice",
        ),
        ("[server]\nport = '1'", "server.port: expected int, got str"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, text, said):
    assert said in problem(tmp_path, text)


def test_state_is_kept_where_xdg_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_directory() == tmp_path / "stoker"


def test_a_weight_that_cannot_be_is_named(tmp_path):
    text = '[[endpoint]]\nname = "a"\n[[endpoint.workergroup]]\nbackend = "llamacpp"\nweight = -1.0'
    assert "endpoint[0].workergroup[0].weight: must be" in problem(tmp_path, text)
