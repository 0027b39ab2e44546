"""Requests whose KV blocks come from elsewhere: vLLM's real scheduler and connector interface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import vllm
from modelless import BLOCK, Driver, Job, make_config, make_scheduler
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
)
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request

from pars_export.table import write_table_predictor
from pars_vllm import ParsScheduler
from pars_vllm.compat import has_skipped_waiting


class Elsewhere(KVConnectorBase_V1):  # type: ignore[misc]  # vLLM is not type-checked here
    """Two blocks of "far" lie elsewhere; asked again after a failure, it first does not know."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.answers: list[tuple[int | None, bool]] = [(2 * BLOCK, True), (None, False)]

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        known = request.request_id == "far" and self.answers
        return self.answers.pop(0) if known else (0, False)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, None]:
        return request.request_id == "sent", None  # its blocks stay until they are sent on

    def update_state_after_alloc(self, *_: object) -> None: ...

    def build_connector_meta(self, scheduler_output: object) -> KVConnectorMetadata:
        return KVConnectorMetadata()

    def start_load_kv(self, *_: object, **__: object) -> None: ...

    def wait_for_layer_load(self, layer_name: str) -> None: ...

    def save_kv_layer(self, *_: object, **__: object) -> None: ...

    def wait_for_save(self) -> None: ...


@pytest.fixture
def schedulers(tiny_model: Path, tmp_path: Path) -> Iterator[tuple[Scheduler, ParsScheduler]]:
    write_table_predictor(tmp_path / "table", {})
    made = []
    for cls in (Scheduler, ParsScheduler):
        pars: dict[str, object] = {"predictor": str(tmp_path / "table")}
        config = make_config(tiny_model, slots=2, pars=pars if cls is ParsScheduler else None)
        config.kv_transfer_config = KVTransferConfig(
            kv_connector="Elsewhere",
            kv_connector_module_path=__name__,
            kv_role="kv_both",
            kv_load_failure_policy="recompute",
        )
        config.scheduler_config.disable_hybrid_kv_cache_manager = True
        made.append(make_scheduler(cls, config))
    yield made[0], made[1]
    for scheduler in made:
        scheduler.shutdown()


def block_holders(scheduler: Scheduler) -> Iterator[Request]:
    """Waiting requests that hold KV blocks; stock vLLM up to 0.30: all that were set aside."""
    if has_skipped_waiting(vllm.__version__):
        return iter(scheduler.skipped_waiting)
    return iter(scheduler.kv_holding_waiting)


def fail_the_load(scheduler: Scheduler) -> None:
    """One step, after which the load of "far" is known to have failed."""
    report = KVConnectorOutput(finished_recving={"far"}, failed_recving={"far"})
    output = scheduler.schedule()
    scheduler.update_from_output(output, ModelRunnerOutput([], {}, kv_connector_output=report))


@pytest.mark.skipif(
    "failed_recving" not in {field.name for field in fields(KVConnectorOutput)},
    reason="this vLLM version is told of failed loads by block only",
)
@pytest.mark.usefixtures("no_orphans")
def test_a_failed_load_comes_back_where_stock_vllm_puts_it(
    schedulers: tuple[Scheduler, ParsScheduler],
) -> None:
    """At the front: it had its turn, and its blocks were lost through no fault of its own."""
    admitted = []
    for scheduler in schedulers:
        driver = Driver(scheduler)
        driver.add(Job("far", [7] * 40, 3))
        fail_the_load(scheduler)
        assert [request.request_id for request in block_holders(scheduler)] == ["far"]
        for name in ("near0", "near1", "near2"):
            driver.add(Job(name, [8, 9], 3))
        if isinstance(scheduler, ParsScheduler):
            assert scheduler.pars_queue is not None
            for name in ("near0", "near1", "near2"):  # shorter than "far" is known to be
                scheduler.pars_queue.order.rescore(name, 1.0)
        step = driver.step()  # it is set aside: the connector does not know
        assert step is not None
        assert "far" not in step.new
        assert next(chain(block_holders(scheduler), scheduler.waiting)).request_id == "far"
        history = driver.run()
        assert sorted(history.finished) == ["far", "near0", "near1", "near2"]
        admitted.append(history.admitted)
    assert admitted[0] == admitted[1] == ["near0", "near1", "far", "near2"]


@pytest.mark.usefixtures("no_orphans")
def test_a_score_after_the_end_leaves_nothing_behind(
    schedulers: tuple[Scheduler, ParsScheduler],
) -> None:
    """A request whose blocks are still being sent on is over, though vLLM keeps it a while."""
    scheduler = schedulers[1]
    driver = Driver(scheduler)
    request = driver.add(Job("sent", [7] * 40, 1))
    driver.run()
    assert request.is_finished()
    assert scheduler.requests.get("sent") is request
    assert scheduler.pars_scorer is not None
    assert scheduler.pars_scorer.wait(60)
    scheduler.pars_scorer.poll()
    scheduler.pars_scorer._answers.append(("sent", 12.0))  # as late as it may come
    scheduler._pars_rank_again.append("sent")
    scheduler.schedule()
    assert not scheduler.pars_record._feedback._expected
    assert not scheduler.pars_scorer.pending
