"""A console for terminals and for logs."""

from __future__ import annotations

from typing import Any

from rich.console import Console, ConsoleDimensions

WIDEST = 10_000  # columns: nothing that is printed has as many


class Screen(Console):
    """As wide as its terminal; in a log as wide as what is printed there, unless COLUMNS is set."""

    @property
    def is_log(self) -> bool:
        return not (self.is_terminal or self._width or self._environ.get("COLUMNS", ""))

    @property
    def size(self) -> ConsoleDimensions:
        width, height = super().size
        return ConsoleDimensions(WIDEST if self.is_log else width, height)

    @size.setter
    def size(self, new: tuple[int, int]) -> None:
        self._width, self._height = new

    def print(self, *objects: Any, **options: Any) -> None:
        """As Console.print, but that no line of a log is filled up with blanks."""
        if not self.is_log:
            super().print(*objects, **options)
            return
        with self.capture() as captured:
            super().print(*objects, **options)
        self.file.write("\n".join(line.rstrip() for line in captured.get().split("\n")))
        self.file.flush()  # what is on standard error comes after it
