"""Built-in workload calculators: the load of a request, read from the few fields that tell it.

Rules:

* Load is in the unit that the model server's time is spent on: generated tokens, megapixel-steps,
  seconds of audio, tokens to embed. One worker's routes share one unit, because they share one
  capacity.
* Only the fields that say something about load are decoded; whatever else the payload holds is
  skipped unread. A payload of another shape costs `stoker.wire.DEFAULT_LOAD`: the model server
  will refuse it. No calculator raises, whatever the payload.
* Every figure that a client names is bounded before it counts, so that one request cannot book a
  fleet for a year; the load of a request is never nought where its route has a cost at all.
* A payload that asks for more never costs less.
"""

from __future__ import annotations

from stoker.worker.calculators.common import Constant
from stoker.worker.calculators.media import AudioSeconds, ImagePixelSteps
from stoker.worker.calculators.text import PROMPT_WEIGHT, EmbeddingCharacters, LlmTokens

__all__ = [
    "PROMPT_WEIGHT",
    "AudioSeconds",
    "Constant",
    "EmbeddingCharacters",
    "ImagePixelSteps",
    "LlmTokens",
]
