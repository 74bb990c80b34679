"""What several commands read from their arguments."""

from __future__ import annotations

from typing import Any

import msgspec

from stoker.errors import ConfigError


def json_object(option: str, text: str) -> dict[str, Any]:
    """The JSON object that an option holds.

    Raises:
        ConfigError: it is none; the option is named.
    """
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        problem = f"must be a JSON object such as '{{\"parallel\": 4}}': {error}"
        raise ConfigError(option, problem) from None
