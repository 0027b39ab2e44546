"""vLLM's real scheduler and KV cache in virtual time, with a predictor's scores and no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm.v1.outputs import ModelRunnerOutput

from pars_bench.modelless import BLOCK, STOP, make_config, make_request, make_scheduler
from pars_export.errors import InputError
from pars_vllm import ParsScheduler

_OTHER = 5
"""Any token but the one that ends a response."""
_SCORES_S = 600.0


@dataclass(frozen=True)
class Job:
    """A request, and how long its answer will be."""

    arrival: float
    """In virtual time; a step without prefill takes 1."""
    prompt: Sequence[int]
    length: int


@dataclass(frozen=True)
class Outcome:
    """What became of the jobs."""

    latencies: list[float]
    """Virtual time from arrival to last token, one a job."""
    recomputed: int
    """Tokens computed again after a preemption."""
    preemptions: int
    makespan: float


def drive(
    model: Path,
    jobs: Sequence[Job],
    pars: dict[str, object],
    *,
    slots: int,
    blocks: int,
    budget: int,
    prefill_cost: float,
) -> Outcome:
    """Run the jobs, in order of arrival, to the end; no prefix caching.

    Args:
        model: Folder with a model's configuration and tokenizer.
        jobs: What arrives.
        pars: ``additional_config["pars"]``. Each score is there before the step that follows its
            request, as from a scorer that is much faster than a step.
        slots: Requests that run at once.
        blocks: KV blocks.
        budget: Tokens that a step may compute.
        prefill_cost: Time that a prefilled token adds to its step.
    """
    longest = max(len(job.prompt) + job.length for job in jobs)
    if longest > (blocks - 1) * BLOCK:  # one block stands for "none"
        raise InputError(
            f"A request of {longest} tokens cannot end in a KV cache of {blocks} blocks of "
            f"{BLOCK}; take more blocks."
        )
    config = make_config(
        model, slots=slots, budget=budget, blocks=blocks, prefix_caching=False, pars=pars
    )
    scheduler = make_scheduler(ParsScheduler, config)
    assert isinstance(scheduler, ParsScheduler)
    latencies = [0.0] * len(jobs)
    came = computed = 0
    now = 0.0
    try:
        while came < len(jobs) or scheduler.has_unfinished_requests():
            if not scheduler.has_unfinished_requests():
                now = max(now, jobs[came].arrival)
            while came < len(jobs) and jobs[came].arrival <= now:
                scheduler.add_request(make_request(str(came), jobs[came].prompt, hashing=False))
                came += 1
            if scheduler.pars_scorer is not None and not scheduler.pars_scorer.wait(_SCORES_S):
                raise TimeoutError("the scorer process did not answer")
            output = scheduler.schedule()
            names = list(output.num_scheduled_tokens)
            prefilled = 0
            sampled: list[list[int]] = []
            for name in names:
                request = scheduler.requests[name]
                tokens = output.num_scheduled_tokens[name]
                prefilled += tokens if tokens > 1 else 0
                ends = request.num_output_tokens + 1 >= jobs[int(name)].length
                token = STOP if ends else _OTHER
                sampled.append([] if request.is_prefill_chunk else [token])
            computed += output.total_num_scheduled_tokens
            now += 1 + prefill_cost * prefilled
            result = ModelRunnerOutput(
                req_ids=names,
                req_id_to_index={name: index for index, name in enumerate(names)},
                sampled_token_ids=sampled,
            )
            for outputs in scheduler.update_from_output(output, result).values():
                for each in outputs.outputs:
                    if each.finish_reason is not None:
                        index = int(each.request_id)
                        latencies[index] = now - jobs[index].arrival
    finally:
        scheduler.shutdown()
    # A prompt is computed once, and so is each token of the answer but the last.
    needed = sum(len(job.prompt) + job.length - 1 for job in jobs)
    return Outcome(latencies, computed - needed, scheduler.pars_counters.preemptions, now)
