"""What several commands read from their arguments."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from stoker.errors import UNREADABLE, ConfigError


def json_object(option: str, text: str) -> dict[str, Any]:
    """The JSON object that an option holds.

    Raises:
        ConfigError: it is none; the option is named.
    """
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except UNREADABLE as error:
        problem = f"must be a JSON object such as '{{\"parallel\": 4}}': {error}"
        raise ConfigError(option, problem) from None


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(option: str, text: str) -> float:
    """A time such as ``90``, ``90s``, ``15m``, ``1h`` or ``30d``, in seconds.

    Raises:
        ConfigError: it is none; the option is named.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([smhd]?)", text.strip())
    if found is None:
        raise ConfigError(option, f"must be a time such as 90s, 15m, 1h or 30d, not {text!r}")
    return float(found[1]) * _UNITS[found[2]]
