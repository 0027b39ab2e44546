"""``ParsScheduler``: vLLM's own scheduler with another waiting queue.

Only the queue differs: ``schedule()`` itself, the KV cache, chunked prefill, preemption and every
side queue stay vLLM's. With ranking "off" even the queue is vLLM's, so that the arrival-order
control runs through this very class.

What is touched of vLLM's scheduler: ``waiting``, ``running``, ``requests``, ``policy``,
``max_model_len``, ``cache_config``, ``kv_cache_manager``, ``enable_kv_cache_events``,
``add_request``, ``schedule``, ``_free_request``, ``shutdown``; ``tests/pars_vllm/test_contract.py``
fails where one of them changes its meaning.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import vllm
from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from pars_export.errors import ConfigError
from pars_vllm.arrival import default_cap, facts_of, pack
from pars_vllm.compat import replace_waiting
from pars_vllm.deployment import check_trust, refusal_comes_last, stock_class, worker_options
from pars_vllm.kv import PassOver, RemainingWork, preempt_longest
from pars_vllm.metrics import Counters
from pars_vllm.pace import Pace
from pars_vllm.policy import Policy
from pars_vllm.queue import ParsRequestQueue
from pars_vllm.scorer import Limits, Scorer, ScoreSource
from pars_vllm.settings import Settings
from pars_vllm.track_record import TrackRecord
from pars_vllm.versions import check_version
from pars_vllm.work import ExpectedWork

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput

logger = init_logger("vllm.pars")

_RANKED_AGAIN_PER_STEP = 64
"""Waiting requests that are ranked, or asked about, anew in one step: it must stay short."""


class ParsScheduler(Scheduler):  # type: ignore[misc]  # vLLM is not type-checked here
    """vLLM's scheduler with the waiting queue in order of expected remaining work.

    Made on the base that stock vLLM would use: with async scheduling an instance is a subclass of
    AsyncScheduler too. Raises ConfigError or PredictorError before the engine serves anything.
    """

    def __new__(cls, vllm_config: VllmConfig, *_args: object, **_kwargs: object) -> ParsScheduler:
        """Choose the class whose base is the one that stock vLLM would use."""
        with refusal_comes_last():
            base = stock_class(vllm_config)
            if base is AsyncScheduler and not issubclass(cls, AsyncScheduler):
                if cls is not ParsScheduler:
                    raise ConfigError(
                        f"{cls.__name__} must also derive from AsyncScheduler, because this "
                        f"deployment uses async scheduling."
                    )
                cls = _AsyncParsScheduler
        instance: ParsScheduler = object.__new__(cls)
        return instance

    def __init__(
        self,
        vllm_config: VllmConfig,
        *args: object,
        scores: ScoreSource | None = None,
        **kwargs: object,
    ) -> None:
        # ``scores``: given by a replay, whose scores come in virtual time; no process is started.
        with refusal_comes_last():
            self.pars_settings = settings = Settings.parse(vllm_config.additional_config)
            check_version(vllm.__version__, settings.allow_unsupported_vllm)
            check_trust(settings, SchedulingPolicy(vllm_config.scheduler_config.policy))
            scored = settings.ranking != "off" and scores is None
            options = worker_options(settings, vllm_config) if scored else None
        super().__init__(vllm_config, *args, **kwargs)
        self.pars_counters = Counters()
        self.pars_scorer: Scorer | None = None
        self.pars_queue: ParsRequestQueue | None = None
        self.pars_record = TrackRecord(settings, self.pars_counters, self.requests)
        self._pars_reads = options.reads if options is not None else ()
        self._pars_cap = default_cap(vllm_config) if self._pars_reads else None
        self._pars_pass_over: PassOver | None = None
        self._pars_steps = 0
        self._pars_pace = Pace()
        self._pars_down = False  # whether the scorer was lost and is not there again
        self._pars_rank_again: deque[str] = deque()
        self._pars_policy = Policy(
            settings.patience, settings.share, settings.prefill_weight, settings.trust_priority
        )
        self._pars_work = ExpectedWork(self, self._pars_policy)
        self._pars_remaining = RemainingWork(self._pars_policy, self.pars_record)
        if settings.ranking == "on":
            self.pars_queue = queue = ParsRequestQueue(self._pars_policy)
            replace_waiting(self, queue)
            if settings.pass_over:
                self._pars_pass_over = PassOver(
                    self, queue, self._pars_remaining, settings.patience, self.pars_counters
                )
        if options is not None:
            limits = Limits(
                settings.max_pending,
                settings.score_timeout_s,
                settings.start_timeout_s,
                settings.cache_entries,
            )
            self.pars_scorer = Scorer(options, limits, self.pars_counters)
        self._pars_scores: ScoreSource | None = scores if scores is not None else self.pars_scorer
        which = "predictor" if settings.predictor is not None else "the default predictor"
        logger.info(
            "PARS: ranking %s on vLLM %s, %s%s.",
            settings.ranking,
            vllm.__version__,
            "AsyncScheduler" if isinstance(self, AsyncScheduler) else "Scheduler",
            f", {which} {options.predictor} ({options.predictor_sha256})" if options else "",
        )

    # ---- vLLM's own steps

    def add_request(self, request: Request) -> None:
        """Queue a request at once; its score follows."""
        super().add_request(request)
        # A further chunk of a streaming session is no request of its own.
        if self._pars_scores is not None and self.requests.get(request.request_id) is request:
            self.pars_counters.requests += self._ask_score(request)

    def schedule(self, *args: object, **kwargs: object) -> SchedulerOutput:
        """One scheduling step: first what the scorer has answered, then vLLM's own schedule."""
        scorer = self._pars_scores
        if scorer is not None:
            waiting = len(self.waiting)
            lacking = waiting if self._pars_rank_again else scorer.outstanding
            if self._pars_pace.due(lacking, waiting):
                self._take_scores(scorer)
        if self.pars_queue is not None:
            self.pars_queue.order.begin(self._pars_steps)
            if self.pars_settings.preempt_longest:
                preempt_longest(self, self._pars_remaining)
            if self._pars_pass_over is not None:
                self._pars_pass_over.before(self._pars_steps)
        output = super().schedule(*args, **kwargs)
        if self.pars_queue is not None:
            if self._pars_pass_over is not None:
                self._pars_pass_over.after()
            self.pars_queue.order.end()
            self.pars_counters.admissions = self.pars_queue.order.admissions
            self.pars_counters.admitted_urgent = self.pars_queue.order.admitted_urgent
        # A step in which nothing ran is no time in which anybody could have been served.
        self._pars_steps += output.total_num_scheduled_tokens > 0
        if scorer is not None:
            self.pars_record.began(output.scheduled_new_reqs)
        return output

    def _free_request(self, request: Request, *args: object, **kwargs: object) -> object:
        if request.pooling_params is None:
            self.pars_counters.finished += request.status != RequestStatus.FINISHED_ABORTED
            self.pars_counters.preemptions += request.num_preemptions
        self.pars_record.ended(request)
        return super()._free_request(request, *args, **kwargs)

    def shutdown(self) -> None:
        """End the scorer process, then vLLM's own parts."""
        if self._pars_scores is not None:
            self._pars_scores.close()
            self.pars_record.log()
        super().shutdown()

    # ---- scores

    def _ask_score(self, request: Request) -> bool:
        """Hand a request to the scorer; False if there is nothing to predict about it."""
        assert self._pars_scores is not None
        if request.pooling_params is not None or not request.prompt_token_ids:
            return False
        known = b""
        if self._pars_reads:
            known = pack(facts_of(request, self._pars_reads, self.max_model_len, self._pars_cap))
        self._pars_scores.submit(request.request_id, request.prompt_token_ids, known)
        return True

    def _take_scores(self, scorer: ScoreSource) -> None:
        """Work of the requests answered since the last step; arrival order if scores are lost."""
        answers = scorer.poll()
        order = self.pars_queue.order if self.pars_queue is not None else None
        if scorer.lost:
            scorer.lost = False
            self._pars_down = True
            self._pars_rank_again.clear()
            if order is not None:
                order.drop_scores()
        if scorer.recovered:
            scorer.recovered = self._pars_down = False
            self._pars_rank_again = deque(order.keys() if order is not None else ())
        if self.pars_record.step() and order is not None:
            if not self.pars_record.trusted:
                order.drop_scores()
            elif not self._pars_down:
                self._pars_rank_again = deque(order.keys())
        for _ in range(min(_RANKED_AGAIN_PER_STEP, len(self._pars_rank_again))):
            request = self._unfinished(self._pars_rank_again.popleft())
            if request is not None:
                self._rank_again(request)
        for request_id, tokens in answers:
            request = self._unfinished(request_id)
            if tokens is None:
                self.pars_counters.unknown += 1
                continue
            self.pars_counters.scored += 1
            if request is None:
                continue
            tokens = self.pars_record.scored(request_id, tokens)
            if order is not None and self.pars_record.trusted:
                work = self._pars_work(request, tokens, request_id in order)
                order.rescore(request_id, work)

    def _unfinished(self, request_id: str) -> Request | None:
        # vLLM keeps one that is over while its KV blocks are still being sent elsewhere.
        request = self.requests.get(request_id)
        return None if request is None or request.is_finished() else request

    def _rank_again(self, request: Request) -> None:
        """Order a request by what is known of it already; ask where nothing is."""
        tokens = self.pars_record.expected(request.request_id)
        if tokens is None:
            self._ask_score(request)
        elif self.pars_queue is not None and self.pars_record.trusted:
            order = self.pars_queue.order
            work = self._pars_work(request, tokens, request.request_id in order)
            order.rescore(request.request_id, work)


class _AsyncParsScheduler(ParsScheduler, AsyncScheduler):  # type: ignore[misc]  # as above
    """The same over AsyncScheduler: ``super()`` of ParsScheduler reaches it first."""
