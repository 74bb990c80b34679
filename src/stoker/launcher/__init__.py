"""The launcher: brings one instance up, keeps it up, and leaves nothing behind.

An instance is a directory with a manifest. ``python -m stoker.launcher DIR`` runs it: a model
server, the worker in front of it, and a guardian that kills both if the launcher itself is killed.
"""

from __future__ import annotations

from stoker.launcher.guardian import sweep
from stoker.launcher.lifecycle import Phase
from stoker.launcher.manifest import (
    InstanceManifest,
    Supervision,
    manifest_from_environ,
    read_manifest,
    tag,
    write_manifest,
)
from stoker.launcher.run import EXIT_MISTAKE, EXIT_TAKEN, launch, main
from stoker.launcher.state import InstanceState, launcher_of, read_state

__all__ = [
    "EXIT_MISTAKE",
    "EXIT_TAKEN",
    "InstanceManifest",
    "InstanceState",
    "Phase",
    "Supervision",
    "launch",
    "launcher_of",
    "main",
    "manifest_from_environ",
    "read_manifest",
    "read_state",
    "sweep",
    "tag",
    "write_manifest",
]
