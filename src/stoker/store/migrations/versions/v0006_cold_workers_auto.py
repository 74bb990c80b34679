"""`cold_workers` may be "auto". No table changes; an earlier Stoker could not read the parameters.

Without this number it would fail on such a row in the words of a parser; so it says that the
database was written by a newer one.
"""

from __future__ import annotations

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Nothing to do."""
