"""How often the control plane looks, and how long it waits to hear."""

TICK = 1.0
"""Seconds between two rounds of reconciliation when nothing hurries."""

MIN_TICK = 0.1
"""Seconds between two rounds when something does (a held request, a report of readiness)."""

REPORT_DEADLINE = 13.0
"""Seconds without a report after which a worker leaves the rotation: it reports at least every
10 s, and 3 s are for a report that is late."""
