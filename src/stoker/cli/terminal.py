"""The console that commands print with; `stoker.cli.output` makes it when it is needed."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment

from stoker.logs import displayable

MIN_WIDTH = 60
"""Columns that are made use of at least: a narrower terminal folds lines, where a table of its own
width would have no room for a word."""


class SafeConsole(Console):
    """A console whose texts cannot hold control characters; styles and its own controls work."""

    @property
    def size(self) -> ConsoleDimensions:
        """See rich; ``COLUMNS`` may be 0."""
        width, height = super().size
        return ConsoleDimensions(max(width, MIN_WIDTH), height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """See rich: all that is printed is rendered by this."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(displayable(text), style)
