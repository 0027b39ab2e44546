"""What is read off a deployment, and refused, before anything is served.

What a wrong predictor folder or a wrong setting says is tested through the scheduler itself, in
test_scheduler.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from modelless import make_config
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler

from pars_export.errors import ConfigError, PredictorError
from pars_vllm.deployment import check_cpus, check_trust, stock_class, worker_options
from pars_vllm.settings import Settings


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_stock_class_is_what_vllm_chooses_without_us(tiny_model: Path, asynchronous: bool) -> None:
    config = make_config(tiny_model, asynchronous=asynchronous, pars={"ranking": "off"})
    config.scheduler_config.scheduler_cls = "pars_vllm.ParsScheduler"
    assert stock_class(config) is (AsyncScheduler if asynchronous else Scheduler)
    assert config.scheduler_config.scheduler_cls == "pars_vllm.ParsScheduler"


def test_other_stock_class_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Scheduler):  # type: ignore[misc]
        pass

    config = make_config(tiny_model, pars={"ranking": "off"})
    monkeypatch.setattr(type(config.scheduler_config), "get_scheduler_cls", lambda self: Other)
    with pytest.raises(ConfigError, match="Other here, which PARS does not extend"):
        stock_class(config)


def test_diffusion_models_are_refused(tiny_model: Path) -> None:
    config = make_config(tiny_model)
    config.diffusion_config = SimpleNamespace()
    with pytest.raises(ConfigError, match="diffusion models"):
        stock_class(config)


def test_priorities_of_vllm_want_trust() -> None:
    trusting = Settings(predictor="p", trust_priority=True)
    check_trust(trusting, SchedulingPolicy.PRIORITY)
    check_trust(Settings(predictor="p"), SchedulingPolicy.FCFS)
    with pytest.raises(ConfigError, match="trust_priority"):
        check_trust(Settings(predictor="p"), SchedulingPolicy.PRIORITY)


def test_cpus_that_are_not_there_are_refused() -> None:
    """Else every scorer process would die at its start, and be started again for ever."""
    before = os.sched_getaffinity(0)
    check_cpus(())
    check_cpus((min(before),))
    for cpus in ((9_999,), (10**12,)):
        with pytest.raises(ConfigError, match=f"is .{cpus[0]}., but this machine"):
            check_cpus(cpus)
    assert os.sched_getaffinity(0) == before


def test_the_scorer_process_chooses_the_runtime(tiny_model: Path) -> None:
    """It goes on to the next where a package cannot be imported; one that is named it would not."""
    config = make_config(tiny_model)
    assert worker_options(Settings(), config).runtime == "auto"
    assert worker_options(Settings(runtime="student"), config).runtime == "student"
    with pytest.raises(PredictorError, match="cannot run on "):
        worker_options(Settings(runtime="onnx"), config)
