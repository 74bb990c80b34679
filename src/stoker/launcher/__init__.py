"""The launcher: brings one instance up, keeps it up, and leaves nothing behind.

An instance is a directory with a manifest. ``python -m stoker.launcher DIR`` runs it: a model
server, the worker in front of it, and a guardian that kills both if the launcher itself is killed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoker import lazy

if TYPE_CHECKING:
    from stoker.launcher.backoff import Backoff
    from stoker.launcher.environment import LOGS
    from stoker.launcher.files import (
        FileLock,
        check_private,
        is_locked,
        open_own,
        read_small,
        secure_directory,
        write_atomic,
    )
    from stoker.launcher.guardian import TAG, created_at, same_process, sweep
    from stoker.launcher.lifecycle import Phase
    from stoker.launcher.manifest import (
        MANIFEST,
        InstanceManifest,
        Supervision,
        tag,
        write_manifest,
    )
    from stoker.launcher.orphans import end_orphans
    from stoker.launcher.reading import (
        install_manifest,
        manifest_from_environ,
        read_manifest,
    )
    from stoker.launcher.run import EXIT_MISTAKE, EXIT_TAKEN, launch, main
    from stoker.launcher.state import LOCK, InstanceState, launcher_of, read_state

__all__ = [
    "EXIT_MISTAKE",
    "EXIT_TAKEN",
    "LOCK",
    "LOGS",
    "MANIFEST",
    "TAG",
    "Backoff",
    "FileLock",
    "InstanceManifest",
    "InstanceState",
    "Phase",
    "Supervision",
    "check_private",
    "created_at",
    "end_orphans",
    "install_manifest",
    "is_locked",
    "launch",
    "launcher_of",
    "main",
    "manifest_from_environ",
    "open_own",
    "read_manifest",
    "read_small",
    "read_state",
    "same_process",
    "secure_directory",
    "sweep",
    "tag",
    "write_atomic",
    "write_manifest",
]

__getattr__ = lazy.front(
    __name__,
    {
        "backoff": "Backoff",
        "environment": "LOGS",
        "files": (
            "FileLock check_private is_locked open_own read_small secure_directory write_atomic"
        ),
        "guardian": "TAG created_at same_process sweep",
        "lifecycle": "Phase",
        "manifest": "MANIFEST InstanceManifest Supervision tag write_manifest",
        "orphans": "end_orphans",
        "reading": "install_manifest manifest_from_environ read_manifest",
        "run": "EXIT_MISTAKE EXIT_TAKEN launch main",
        "state": "LOCK InstanceState launcher_of read_state",
    },
)
