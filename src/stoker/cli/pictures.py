"""Whether a picture can be drawn."""

from __future__ import annotations

from pathlib import Path

from stoker.cli import output
from stoker.errors import ConfigError


def check_plot(path: Path) -> None:
    """See that `--plot` names a picture that can be written; found out before the work.

    Raises:
        ConfigError: it does not.
    """
    if path.suffix not in (".png", ".svg"):
        raise ConfigError("--plot", f"must end in .png or .svg, not {path.suffix or 'nothing'!r}")
    if not path.parent.is_dir():
        raise ConfigError("--plot", f"there is no directory {str(path.parent)!r}")


def need_matplotlib() -> None:
    """End the command, with what to do, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        output.missing("matplotlib", "plot", what="no picture was drawn")
