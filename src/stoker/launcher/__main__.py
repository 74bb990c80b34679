"""``python -m stoker.launcher DIR``."""

from __future__ import annotations

import sys

from stoker.launcher.run import main

if __name__ == "__main__":
    sys.exit(main())
