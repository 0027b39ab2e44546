"""Token ids of pieces of text, remembered: prompts are made of the same words over and over."""

from __future__ import annotations

from collections.abc import Callable

MOST = 50_000
"""Pieces kept; then all are forgotten, for ordinary ones return at once. They take some 10 MB, and
40 where somebody means ill."""
LONGEST = 32
"""Characters of the longest piece that is kept; one has half as many ids at most."""


class Remembered(dict[str, list[int]]):
    """Ids of each piece, found when first asked for.

    Several threads may ask at once: a piece may then be found twice, with the same ids.
    """

    def __init__(self, find: Callable[[str], list[int]]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, piece: str) -> list[int]:
        ids = self._find(piece)
        if len(piece) <= LONGEST and len(ids) <= LONGEST // 2:
            if len(self) >= MOST:
                self.clear()
            self[piece] = ids
        return ids
