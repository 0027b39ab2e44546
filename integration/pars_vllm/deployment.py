"""What a deployment of vLLM tells us before anything is served, and where PARS does not fit it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler

from pars_export.artifact import folder_sha256, read_manifest
from pars_export.errors import ConfigError
from pars_export.runtimes import choose
from pars_vllm.scorer_worker import WorkerOptions
from pars_vllm.settings import Settings
from pars_vllm.tokenizer import TokenizerSource, read_chat_template

if TYPE_CHECKING:
    from vllm.config import VllmConfig


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
    if policy == SchedulingPolicy.PRIORITY and not settings.trust_priority:
        raise ConfigError(
            "--scheduling-policy priority preempts by the clients' priority, which PARS "
            "ignores: set additional_config['pars']['trust_priority'] to true, or use the "
            "policy fcfs."
        )


def worker_options(settings: Settings, vllm_config: VllmConfig) -> WorkerOptions:
    """Check the predictor folder and say what the scorer process needs; raise ParsError."""
    assert settings.predictor is not None
    path = Path(settings.predictor).absolute()
    manifest = read_manifest(path, sha256=settings.predictor_sha256)
    if manifest.calibration is None and manifest.kind != "table":
        raise ConfigError(
            f"{path}: it has no calibration, so its scores cannot be told in tokens; train to the "
            f"end of an epoch and export it again."
        )
    runtime = choose(settings.runtime, path, manifest)
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
        runtime=runtime,
        threads=settings.threads,
        cpus=settings.cpus,
        niceness=settings.niceness,
    )
