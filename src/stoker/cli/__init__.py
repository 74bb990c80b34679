"""The command line: `stoker --help`."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the command `stoker`."""
    # First of all: what follows is a moment of imports, in which Ctrl-C must leave no stack trace.
    from stoker import interrupts

    interrupts.end_on_interrupt()
    from stoker import signals
    from stoker.cli import app

    try:
        signals.raise_on_interrupt()
        app.main()
    except KeyboardInterrupt:
        signals.end_interrupted()
    except SystemExit as end:
        if end.code == interrupts.INTERRUPTED:
            signals.end_interrupted()
        raise
    finally:
        interrupts.end_on_interrupt()
