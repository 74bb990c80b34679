"""Load of requests about images and sound."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec

from stoker.errors import UNREADABLE
from stoker.wire import DEFAULT_LOAD
from stoker.worker.calculators.common import ABSENT, Number, bounded, first, positive
from stoker.worker.config import RawCalculator

MAX_SIDE = 16_384
"""Most pixels of a side that count."""

MAX_STEPS = 1_000
"""Most denoising steps of a request that count."""

MAX_IMAGES = 1_000
"""Most images, or frames of a video, of a request that count."""

MAX_SECONDS = 86_400.0
"""Most seconds of audio of a request that count: a day."""

CHARACTERS_PER_SECOND = 15.0
"""Characters that a voice reads in a second: 150 words of 6 characters (blanks too) a minute."""

_SIZE = re.compile(r"([0-9]{1,6})[x*]([0-9]{1,6})")


class _NodeInputs(msgspec.Struct):
    """Inputs of a ComfyUI node that matter; each is a value, or a link: [node, output]."""

    width: Any = None
    height: Any = None
    batch_size: Any = None
    length: Any = None
    steps: Any = None


class _Node(msgspec.Struct):
    inputs: _NodeInputs | None = None


class _Picture(msgspec.Struct):
    prompt: msgspec.Raw = ABSENT
    width: Number = None
    height: Number = None
    size: str | None = None
    n: Number = None
    batch_size: Number = None
    num_images: Number = None
    num_images_per_prompt: Number = None
    num_inference_steps: Number = None
    steps: Number = None


_PICTURE = msgspec.json.Decoder(_Picture)
_GRAPH = msgspec.json.Decoder(dict[str, _Node])


class ImagePixelSteps(RawCalculator):
    """Load of image generation: width x height x steps x images, in megapixel-steps.

    Understands OpenAI's images route (``size``, ``n``), fields named as in diffusers (``width``,
    ``height``, ``num_inference_steps`` or ``steps``, ``num_images_per_prompt``), and a ComfyUI
    graph in ``prompt``: there the largest node with a width, a height and a batch size (such as
    EmptyLatentImage; the frames of a video, ``length``, count too) and the sum of all ``steps``
    (such as KSampler's) tell. A 1024 x 1024 image of 20 steps is 20.97.

    Attributes:
        width: pixels, where the request does not say.
        height: pixels, where the request does not say.
        steps: where the request does not say.
    """

    __slots__ = ("height", "steps", "width")

    def __init__(self, width: int = 1024, height: int = 1024, steps: int = 20) -> None:
        """Prepare.

        Raises:
            ConfigError: names the argument that is out of its range.
        """
        self.width = positive("ImagePixelSteps.width", width, MAX_SIDE)
        self.height = positive("ImagePixelSteps.height", height, MAX_SIDE)
        self.steps = positive("ImagePixelSteps.steps", steps, MAX_STEPS)
        super().__init__(self._of)

    def _of(self, payload: msgspec.Raw) -> float:
        try:
            asked = _PICTURE.decode(payload)
            if bytes(memoryview(asked.prompt)[:1]) == b"{":
                return self._of_graph(_GRAPH.decode(asked.prompt))
        except UNREADABLE:
            return DEFAULT_LOAD
        width, height = asked.width, asked.height
        if asked.size and (match := _SIZE.fullmatch(asked.size)):
            width, height = int(match[1]), int(match[2])
        images = first(asked.n, asked.num_images_per_prompt, asked.num_images, asked.batch_size)
        steps = bounded(first(asked.num_inference_steps, asked.steps), self.steps, 1, MAX_STEPS)
        return self._pixels(width, height) * bounded(images, 1, 1, MAX_IMAGES) * steps / 1e6

    def _of_graph(self, graph: dict[str, _Node]) -> float:
        largest = steps = 0.0
        for node in graph.values():
            found = node.inputs
            if found is None:
                continue
            if found.batch_size is not None and found.width is not None:
                images = bounded(found.batch_size, 1, 1, MAX_IMAGES)
                frames = bounded(found.length, 1, 1, MAX_IMAGES)
                size = self._pixels(found.width, found.height)
                largest = max(largest, size * min(images * frames, MAX_IMAGES))
            if found.steps is not None:
                steps += bounded(found.steps, self.steps, 1, MAX_STEPS)
        largest = largest or self.width * self.height
        return largest * min(steps or self.steps, MAX_STEPS) / 1e6

    def _pixels(self, width: Any, height: Any) -> float:
        across = bounded(width, self.width, 1, MAX_SIDE)
        return across * bounded(height, self.height, 1, MAX_SIDE)


class _Sound(msgspec.Struct):
    duration: Number = None
    file: msgspec.Raw = ABSENT
    input: str | None = None
    speed: Number = None


_SOUND = msgspec.json.Decoder(_Sound)


class AudioSeconds(RawCalculator):
    """Load of speech: the seconds of audio that are heard, or spoken.

    For a transcription: its ``duration``, where the client says it; else the size of ``file``
    (base64 text, a ``data:`` URL, or an object that holds one as ``data``) at the byte rate that
    the header of a WAV file names, or at `bitrate`. For speech synthesis: the characters of
    ``input`` at `CHARACTERS_PER_SECOND`, divided by ``speed``.

    Attributes:
        bitrate: bits per second of a file that does not say.
    """

    __slots__ = ("bitrate",)

    def __init__(self, bitrate: float = 128_000.0) -> None:
        """Prepare.

        Args:
            bitrate: bits per second; 128 kbit/s is the usual MP3.

        Raises:
            ConfigError: `bitrate` is out of its range.
        """
        self.bitrate = positive("AudioSeconds.bitrate", bitrate)
        super().__init__(self._of)

    def _of(self, payload: msgspec.Raw) -> float:
        try:
            asked = _SOUND.decode(payload)
        except UNREADABLE:
            return DEFAULT_LOAD
        if asked.duration is not None:
            return bounded(asked.duration, 1.0, 1.0, MAX_SECONDS)
        if len(memoryview(asked.file)) > len(b"null"):
            view = memoryview(asked.file)
            rate = _wav_byte_rate(bytes(view[:1024])) or self.bitrate / 8
            # What surrounds the base64 text is a few bytes among thousands.
            return bounded(len(view) * 0.75 / rate, 1.0, 1.0, MAX_SECONDS)
        if asked.input is not None:
            speed = bounded(asked.speed, 1.0, 0.25, 4.0)  # OpenAI's range
            spoken = len(asked.input) / CHARACTERS_PER_SECOND / speed
            return bounded(spoken, 1.0, 1.0, MAX_SECONDS)
        return DEFAULT_LOAD


def _wav_byte_rate(start: bytes) -> float | None:
    """Bytes per second out of a WAV header in base64 near `start`; None where there is none.

    The header: "RIFF", size, "WAVE", "fmt ", size, format, channels, rate, byte rate at offset 28
    (Microsoft's multimedia data standards, 1991).
    """
    at = start.find(b"UklGR")  # "RIFF" in base64
    if at < 0 or len(start) < at + 44:
        return None
    try:
        header = base64.b64decode(start[at : at + 44], validate=True)
    except binascii.Error:
        return None
    if header[8:16] != b"WAVEfmt ":
        return None
    return bounded(int.from_bytes(header[28:32], "little"), 0, 1_000, 1_000_000)
