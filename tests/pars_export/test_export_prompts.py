"""Which prompts an export reads, and how it counts them by kind."""

from __future__ import annotations

import pytest

from pars_export.export_prompts import ExportPrompts, export_prompts, in_words, table_prompts
from pars_export.parity import CALIBRATION, PROMPTS, demonstration_texts


def _named(kind: str, count: int) -> list[str]:
    return [f"{kind} {number}" for number in range(count)]


def _check_disjoint(prompts: ExportPrompts) -> None:
    made_by, compared_on = prompts.made_by.texts, prompts.compared_on.texts
    assert len({*made_by, *compared_on}) == CALIBRATION + PROMPTS == len(made_by) + len(compared_on)


def test_without_any_given_those_of_the_package_are_read() -> None:
    prompts = export_prompts(())
    assert (prompts.made_by.texts, prompts.compared_on.texts) == demonstration_texts()
    assert prompts.made_by.counts == {"shipped": CALIBRATION}
    assert prompts.compared_on.counts == {"shipped": PROMPTS}


def test_those_given_are_counted_apart_from_what_fills_up() -> None:
    prompts = export_prompts(["mine", "mine too", "mine"])
    _check_disjoint(prompts)
    kinds = (prompts.made_by.counts, prompts.compared_on.counts)
    assert sum(counts.get("given", 0) for counts in kinds) == 2
    many = export_prompts(_named("mine", 700))
    assert many.made_by.counts == {"given": CALIBRATION}
    assert many.compared_on.counts == {"given": 700 - CALIBRATION}
    assert export_prompts(many) is many


def test_of_a_large_table_enough_are_taken_evenly() -> None:
    held_out, learned = _named("unseen", 2000), _named("seen", 9000)
    prompts = table_prompts(held_out, learned)
    _check_disjoint(prompts)
    assert prompts.compared_on.counts == {"table": PROMPTS}
    assert prompts.made_by.counts == {"table": CALIBRATION}
    assert set(prompts.compared_on.texts) < set(held_out)
    assert prompts.compared_on.texts[-1] == held_out[-1]
    assert set(prompts.made_by.texts) < set(learned)


@pytest.mark.parametrize(("held_out", "learned"), [(0, 3), (30, 90), (499, 127), (30, 9000)])
def test_a_small_table_is_filled_up(held_out: int, learned: int) -> None:
    prompts = table_prompts(_named("unseen", held_out), _named("seen", learned))
    _check_disjoint(prompts)
    assert prompts.compared_on.counts.get("table", 0) == held_out
    assert prompts.made_by.counts["table"] == min(learned, CALIBRATION)


def test_shipped_prompts_that_taught_are_compared_on_last() -> None:
    shipped = [text for part in demonstration_texts() for text in part]
    prompts = table_prompts([], shipped[:200])
    _check_disjoint(prompts)
    taught = set(shipped[:200])
    assert sum(text in taught for text in prompts.compared_on.texts) == 200 - CALIBRATION
    assert prompts.compared_on.texts[:428] == [text for text in shipped[128:] if text not in taught]
    assert prompts.compared_on.counts == {"shipped": PROMPTS}
    assert prompts.made_by.counts == {"table": CALIBRATION}


def test_the_demonstrations_own_prompts_count_as_the_table_where_they_taught_nothing() -> None:
    made_by, compared_on = demonstration_texts()
    held_out, learned = compared_on[:100], [*compared_on[100:], *made_by]
    prompts = table_prompts(held_out, learned)
    _check_disjoint(prompts)
    assert prompts.made_by.counts == {"table": CALIBRATION}
    assert prompts.compared_on.counts == {"table": 100, "shipped": PROMPTS - 100}


def test_what_a_user_is_told() -> None:
    told = in_words({"table": 32, "shipped": 468})
    assert told == "32 of the table that it was fitted on, 468 that ship with this package"
