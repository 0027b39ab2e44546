"""What a deployment of vLLM tells us before anything is served, and where PARS does not fit it."""

from __future__ import annotations

import copy
import multiprocessing
import multiprocessing.util
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler

from pars_export.artifact import DEFAULT_PREDICTOR, folder_sha256, read_manifest
from pars_export.errors import ConfigError, ParsError
from pars_export.runtimes import choose
from pars_vllm.scorer_worker import WorkerOptions
from pars_vllm.settings import Settings
from pars_vllm.tokenizer import TokenizerSource, read_chat_template

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = init_logger("vllm.pars")

_AFTER_THE_CHILDREN = -100
"""Exit priority: multiprocessing ends child processes before it calls what is below 0."""
_WORKERS_END_S = 1.0
"""Within which vLLM's watcher of its workers has logged their end."""


@contextmanager
def refusal_comes_last() -> Iterator[None]:
    """Say a refusal again as the last thing that an engine core process logs.

    vLLM logs it with its traceback, but where workers run in processes of their own it then logs
    as an error that these have ended, and an operator reads the last ERROR line.
    """
    try:
        yield
    except ParsError as error:
        if multiprocessing.parent_process() is not None:
            multiprocessing.util.Finalize(
                None, _say_again, args=(str(error),), exitpriority=_AFTER_THE_CHILDREN
            )
        raise


def _say_again(sentence: str) -> None:
    time.sleep(_WORKERS_END_S)
    logger.error("PARS: %s", sentence)


def stock_class(vllm_config: VllmConfig) -> type:
    """The class that vLLM would use without ``--scheduler-cls``; ConfigError if neither of two."""
    if vllm_config.diffusion_config is not None:
        raise ConfigError(
            "vLLM would use a scheduler for diffusion models here, which PARS does not extend: "
            "remove --scheduler-cls."
        )
    config = copy.copy(vllm_config.scheduler_config)
    config.scheduler_cls = None
    chosen: type = config.get_scheduler_cls()
    if chosen not in (Scheduler, AsyncScheduler):
        raise ConfigError(
            f"vLLM would use the scheduler {chosen.__module__}.{chosen.__qualname__} here, which "
            f"PARS does not extend: remove --scheduler-cls."
        )
    return chosen


def check_trust(settings: Settings, policy: SchedulingPolicy) -> None:
    """Refuse a vLLM that preempts by priorities which PARS does not order by; ConfigError."""
    ordered = settings.ranking == "on" and not settings.trust_priority
    if ordered and policy == SchedulingPolicy.PRIORITY:
        raise ConfigError(
            "--scheduling-policy priority preempts by the clients' priority, which PARS "
            "ignores: set additional_config['pars']['trust_priority'] to true, or use the "
            "policy fcfs."
        )


def check_cpus(cpus: Sequence[int]) -> None:
    """Refuse CPUs on none of which the scorer process could run; ConfigError."""
    if not cpus or not hasattr(os, "sched_setaffinity"):
        return
    # The kernel is asked, in a thread whose own affinity ends with it: engines bind theirs to some
    # CPUs, so what the engine core itself runs on does not tell.
    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(os.sched_setaffinity, 0, cpus).result()
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"additional_config['pars']['cpus'] is {list(cpus)}, but this machine lets a "
                f"process run on none of them: name CPUs that it has, or leave the key out."
            ) from error


def worker_options(settings: Settings, vllm_config: VllmConfig) -> WorkerOptions:
    """Check the predictor folder and say what the scorer process needs; raise ParsError."""
    check_cpus(settings.cpus)
    chosen = DEFAULT_PREDICTOR if settings.predictor is None else Path(settings.predictor)
    path = chosen.absolute()
    manifest = read_manifest(path, sha256=settings.predictor_sha256)
    if manifest.calibration is None and manifest.kind != "table":
        raise ConfigError(
            f"{path}: it has no calibration, so its scores cannot be told in tokens; train to the "
            f"end of an epoch and export it again."
        )
    choose(settings.runtime, path, manifest)  # refuses what cannot run; the scorer goes by order
    if settings.chat_template is not None:
        read_chat_template(settings.chat_template)
    model = vllm_config.model_config
    return WorkerOptions(
        predictor=str(path),
        predictor_sha256=folder_sha256(path),
        tokenizer=TokenizerSource(
            name=str(model.tokenizer),
            revision=model.tokenizer_revision,
            chat_template=settings.chat_template,
            trust_remote_code=bool(model.trust_remote_code),
        ),
        runtime=settings.runtime,
        threads=settings.threads,
        cpus=settings.cpus,
        niceness=settings.niceness,
        reads=tuple(fact.name for fact in manifest.facts.facts),
    )
