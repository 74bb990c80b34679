"""The drop-in for images whose own script has a certificate signed."""

import json
import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "templates" / "existing-image.sh"

CURL = """#!/bin/bash
printf '%s\\n' "$@" > "$OUT/arguments"
while (($#)); do
    if [[ $1 == --config ]]; then cat "$2" > "$OUT/config"; fi
    shift
done
"""

START = """#!/bin/bash
# What existing images do, in their own words.
curl --header 'Content-Type: application/octet-stream' --data-binary @/etc/instance.csr \
    -X POST "https://console.example/api/v0/sign_cert/?instance_id=7" > instance.crt
"""


def run(tmp_path, script):
    (tmp_path / "bin").mkdir()
    curl = tmp_path / "bin" / "curl"
    curl.write_text(CURL)
    curl.chmod(0o755)
    (tmp_path / "start.sh").write_text(script)
    subprocess.run(
        ["bash", "-c", f"source {SCRIPT} && bash start.sh"],
        cwd=tmp_path,
        env={
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
            "OUT": str(tmp_path),
            "MASTER_TOKEN": "the-secret",
            "REPORT_ADDR": "http://198.51.100.1:8600/,http://198.51.100.2:8600",
        },
        check=True,
        timeout=30,
    )
    return (tmp_path / "arguments").read_text().splitlines()


def test_the_call_of_an_image_goes_to_our_control_plane_with_the_mtoken(tmp_path):
    arguments = run(tmp_path, START)
    assert "http://198.51.100.1:8600/api/v0/sign_cert/?instance_id=7" in arguments
    assert "--fail" in arguments
    assert (tmp_path / "config").read_text() == 'header = "Authorization: Bearer the-secret"\n'
    assert "the-secret" not in json.dumps(arguments)


def test_every_other_call_is_as_it_was(tmp_path):
    arguments = run(tmp_path, "curl -sS 'https://example.org/a b' -o x\n")
    assert arguments == ["-sS", "https://example.org/a b", "-o", "x"]
    assert not (tmp_path / "config").exists()
