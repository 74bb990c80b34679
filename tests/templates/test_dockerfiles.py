"""What can be said of the images without building them: no registry is needed here."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from stoker import backends

TEMPLATES = Path(__file__).parents[2] / "templates"
FILES = sorted(TEMPLATES.glob("*/Dockerfile"))
COMMON = "# From here on all templates are the same."
SECRET = re.compile(r"token|secret|password|api_?key", re.I)

each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)


def instructions(file):
    """Each instruction with its arguments on one line, without comments."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [re.split(r"\s+", line.strip(), maxsplit=1) for line in text.splitlines() if line]


def arguments(file, name):
    return [rest for instruction, rest in instructions(file) if instruction == name]


def program(name):
    """A linter, beside this Python or in PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here (x86-64 Linux has it from PyPI)")
    return found


def test_every_common_backend_has_one():
    names = {file.parent.name for file in FILES}
    assert names >= {"vllm", "sglang", "tgi", "llamacpp", "ollama", "comfyui", "tei", "whisper"}


@each
def test_hadolint_has_nothing_to_say(file):
    done = subprocess.run(
        [program("hadolint"), file], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", sorted(TEMPLATES.glob("*.sh")), ids=lambda file: file.name)
def test_shellcheck_has_nothing_to_say(script):
    done = subprocess.run(
        [program("shellcheck"), script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@each
def test_every_image_is_pinned_to_a_version(file):
    (base,) = arguments(file, "ARG")[:1]
    images = [base.partition("=")[2], *arguments(file, "FROM")]
    for image in images:
        name = image.partition(" AS ")[0]
        if name != "${BASE_IMAGE}":
            assert re.search(r":[^/]*\d", name), name
            assert "latest" not in name


@each
def test_it_serves_its_own_backend(file):
    assert f"BACKEND={file.parent.name}" in " ".join(arguments(file, "ENV"))


@each
def test_no_secret_is_baked_in_and_nothing_is_fetched_by_add(file):
    for text in (*arguments(file, "ENV"), *arguments(file, "ARG")):
        assert not SECRET.search(text)
    assert not arguments(file, "ADD")


@each
def test_it_runs_as_somebody_who_is_not_root(file):
    assert arguments(file, "USER")[-1] == "10001"


@each
def test_the_entry_point_gets_signals_itself_and_its_health_is_the_workers(file):
    assert arguments(file, "ENTRYPOINT") == ['["/opt/stoker/on-start.sh"]']
    assert not arguments(file, "CMD")
    (health,) = arguments(file, "HEALTHCHECK")
    assert health.endswith('CMD ["/opt/stoker/venv/bin/python", "/opt/stoker/healthcheck.py"]')
    assert arguments(file, "EXPOSE") == ["3000"]


@each
def test_what_is_copied_is_there(file):
    for text in arguments(file, "COPY"):
        if "--from" in text:
            continue
        *sources, _target = [word for word in text.split() if not word.startswith("--")]
        for source in sources:
            assert (TEMPLATES.parent / source).exists(), source


@each
def test_what_is_common_is_the_same_everywhere(file):
    head, _, tail = file.read_text().partition(COMMON)
    assert tail
    assert tail == FILES[0].read_text().partition(COMMON)[2]
    assert f"templates/{file.parent.name}/Dockerfile" in head


def test_the_readme_names_every_template():
    text = (TEMPLATES / "README.md").read_text()
    for file in FILES:
        assert f"| {file.parent.name} |" in text


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if file.parent.name in backends.names()],
    ids=lambda file: file.parent.name,
)
def test_the_options_that_an_image_sets_are_options_of_its_backend(file):
    known = {field.name for field in msgspec.structs.fields(backends.get(file.parent.name).options)}
    found = re.findall(r"^ENV STOKER_DEFAULT_OPTIONS='(.*)'$", file.read_text(), re.MULTILINE)
    for options in found:
        assert json.loads(options).keys() <= known
