"""Whether the worker of this container is ready; exit code 0 when it is. For HEALTHCHECK.

Only the standard library: it is started every few seconds.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request


def problem() -> str:
    """Why the worker is not ready; empty: it is."""
    secure = os.environ.get("USE_SSL", "").strip().lower() in ("1", "true", "yes", "on")
    url = f"{'https' if secure else 'http'}://127.0.0.1:{os.environ.get('WORKER_PORT') or 3000}"
    # Its certificate is for its public address; and this never leaves the machine.
    context = ssl._create_unverified_context() if secure else None  # noqa: S323
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=4.0, context=context) as answer:  # noqa: S310
            return "" if answer.status == 200 else f"status {answer.status}"
    except urllib.error.HTTPError as error:
        return f"status {error.code}: {error.read(500).decode('utf-8', 'replace')}"
    except OSError as error:
        return f"no answer: {error}"


if __name__ == "__main__":
    sys.exit(problem() or 0)
