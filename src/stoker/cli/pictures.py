"""Whether a picture can be drawn: found out before the work that it is to show."""

from __future__ import annotations

from pathlib import Path

from stoker.cli import output
from stoker.errors import ConfigError


def check_plot(path: Path) -> None:
    """See that `--plot` names a picture that can be written, by a library that is there.

    Raises:
        ConfigError: it does not.
    """
    if path.suffix not in (".png", ".svg"):
        raise ConfigError("--plot", f"must end in .png or .svg, not {path.suffix or 'nothing'!r}")
    if not path.parent.is_dir():
        raise ConfigError("--plot", f"there is no directory {str(path.parent)!r}")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        output.fail("matplotlib is missing: pip install 'stoker[plot]'")
