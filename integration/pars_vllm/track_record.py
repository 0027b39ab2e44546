"""The predictor's track record in a running engine: what the scheduler tells :mod:`feedback`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from vllm.logger import init_logger
from vllm.v1.request import Request, RequestStatus

from pars_vllm.feedback import Concordance, Feedback
from pars_vllm.metrics import Counters
from pars_vllm.ratio import Ratio
from pars_vllm.settings import Settings

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import NewRequestData

logger = init_logger("vllm.pars")


class TrackRecord:
    """Judges the predictor while the engine runs; logs what changes, and all of it at times."""

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        requests: Mapping[str, Request],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``requests``: the scheduler's own, by id. ``clock`` only spaces log lines."""
        self._feedback = Feedback(
            lambda key: int(requests[key].num_output_tokens),
            window=settings.feedback_window,
            threshold=settings.min_concordance,
        )
        self._counters = counters
        self._requests = requests
        self._shadow = settings.ranking == "shadow"
        self._threshold = settings.min_concordance
        self._interval = settings.log_interval_s
        self._clock = clock
        self._next_log = clock() + self._interval

    @property
    def trusted(self) -> bool:
        """Whether the order is to follow the predictor."""
        return self._feedback.trusted

    @property
    def concordance(self) -> Concordance | None:
        """As last judged; None before there was evidence enough."""
        return self._feedback.concordance

    @property
    def ratio(self) -> Ratio:
        """Distribution of true over expected tokens; a prior until there is evidence."""
        return self._feedback.ratio or Ratio.prior()

    def scored(self, request_id: str, tokens: float) -> float:
        """Expected tokens of a live request, as the predictor gave them -> to the right scale."""
        self._feedback.scored(request_id, tokens)
        return tokens * self._feedback.correction

    def expected(self, request_id: str) -> float | None:
        """The same of a live request that was scored before; None of any other."""
        tokens = self._feedback.expected(request_id)
        return tokens * self._feedback.correction if tokens is not None else None

    def remaining(self, request: Request) -> float | None:
        """Tokens still to come, ``E[L | L > done] - done``; None without a score to trust."""
        expected = self._feedback.expected(request.request_id)
        if expected is None or not self.trusted:
            return None
        done, most = request.num_output_tokens, request.max_tokens
        return self.ratio.remaining(max(expected, 1.0), done, most)

    def began(self, new: Iterable[NewRequestData]) -> None:
        """These are scheduled; vLLM may count those that it resumes among them."""
        for data in new:
            request = self._requests[data.req_id]
            if not request.num_preemptions and request.sampling_params is not None:
                self._feedback.began(data.req_id, at_random=not request.sampling_params.stop)

    def ended(self, request: Request) -> None:
        """A request is over; only a stop token tells its length.

        A cap and an abort say no more than "longer than this", and a stop string, which the front
        end finds, reaches the engine core as an abort.
        """
        by_itself = request.status == RequestStatus.FINISHED_STOPPED
        self._feedback.ended(request.request_id, request.num_output_tokens, by_itself)

    def step(self) -> bool:
        """Judge a little, and log where it is time; True if ``trusted`` has changed."""
        before = self._feedback.evaluations
        changed = self._feedback.step()
        self._counters.judged += self._feedback.evaluations - before
        if changed:
            self._say_change()
        if self._clock() >= self._next_log:
            self.log()
        return changed

    def log(self) -> None:
        """All counters and the track record; no text, no request's name."""
        self._next_log = self._clock() + self._interval
        logger.info("PARS: %s.", self._counters.line())
        if self._feedback.evaluations:
            logger.info("PARS: the predictor's %s.", self.line())

    def line(self) -> str:
        """How good the predictor is, as far as the answers tell."""
        found = self.concordance
        if found is None:
            return "track record is empty"
        return (
            f"concordance is {found.value:.3f} ({found.low:.3f} to {found.high:.3f} from "
            f"{found.ended} answers), its tokens are taken times {self._feedback.correction:.2f}, "
            f"the order is {'trusted' if self.trusted else 'arrival'}"
        )

    def _say_change(self) -> None:
        found = self.concordance
        assert found is not None
        self._counters.returns += self.trusted
        self._counters.fallbacks += not self.trusted
        if self._shadow:
            action = "an order by it would be trusted again" if self.trusted else "it is no order"
        elif self.trusted:
            action = "requests go by expected work again"
        else:
            action = "requests go in arrival order until it is better"
        log = logger.info if self.trusted else logger.warning
        log(
            "PARS: the predictor's concordance with the true lengths is %.3f (99%% interval %.3f "
            "to %.3f; %s min_concordance %.2f): %s.",
            found.value,
            found.low,
            found.high,
            "above" if self.trusted else "below",
            self._threshold,
            action,
        )
