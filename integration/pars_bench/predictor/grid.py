"""What is measured: batches, lengths and threads, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from pars_export.batches import BatchPlan

TOKENS = BatchPlan.tokens
"""Most tokens of a call in which all take turns; an encoder's runtime may cut it up. Of more, which
take seconds, the predictor folders' own runtimes have one sample each."""
TOKENS_LARGE = 512
"""The same for baselines of a hundred million weights, which take a second for that many."""

SMALL_TOKENS = 256
"""Calls of so many tokens or fewer take milliseconds: a sample is of few of them, and what the
machine does in that moment moves it."""
SMALL_ROUNDS = 3
"""Rounds of theirs to one of larger calls."""
START_PROMPTS = 32
"""Prompts scored in a fresh process, before its largest memory is read."""
PROFILED_ROUNDS = 3
"""Samples of a profiled call, to one of another: a single node is disturbed more than a call."""
FEW = 256
"""Prompts of the burst, evenly taken, that are ranked in one call and in one call each as well."""


@dataclass(frozen=True)
class Grid:
    """Sizes of a run."""

    lengths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    """Tokens of a text, special tokens included."""
    batches: tuple[int, ...] = (1, 4, 16, 64)
    """Texts of a call."""
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 5
    """Samples of each contestant in each cell; small calls have `SMALL_ROUNDS` times as many."""
    starts: int = 5
    """Fresh processes of each contestant for load time and memory."""
    slow_starts: int = 2
    """The same of baselines and of torch: most import a framework, which takes seconds."""
    burst: int = 2000
    """Prompts of a burst."""
    burst_rounds: int = 3

    def shapes(self) -> list[tuple[int, int]]:
        """(length, batch) of every cell, short ones first."""
        return [(length, batch) for length in self.lengths for batch in self.batches]

    def shapes_by_size(self) -> list[tuple[int, int]]:
        """The same, those of few tokens first, and of as many those of long texts last."""
        return sorted(self.shapes(), key=lambda shape: (shape[0] * shape[1], shape[0]))

    def rounds_of(self, length: int, batch: int) -> int:
        """Samples of each contestant on ``batch`` texts of ``length`` tokens."""
        tokens = length * batch
        if tokens > TOKENS:
            return 1
        return self.rounds * (SMALL_ROUNDS if tokens <= SMALL_TOKENS else 1)


DEFAULT = Grid()
QUICK = Grid((16, 32), (1, 4), (1,), rounds=1, starts=1, slow_starts=1, burst=32, burst_rounds=1)
"""Enough to see that everything runs; its numbers mean little."""
