"""The docs page and the README's headline, made from a report of synthetic rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_runs import synthetic_runs

from pars_bench.findings import NAMES, headline
from pars_bench.markdown import BEGIN, END, render, write_markdown
from pars_bench.results import write_results
from pars_bench.schema import policies_of, read_report
from pars_bench.tables import table_rows
from pars_export.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic")
    facts = {"tau": 0.61, "interval": [0.55, 0.66], "ceiling": None, "milliseconds": 7.3}
    write_results(out, synthetic_runs(), {"model": "synthetic"}, facts)
    return out


def test_the_page_holds_every_number_of_the_tables(folder: Path) -> None:
    report = read_report(folder / "report.json")
    page = render(report, "make demo")
    assert "`make demo`" in page
    assert "| ceiling (another run of the LLM) | not measured |" in page
    for pattern in ("burst", "poisson"):
        for row in table_rows(report, pattern):
            if row.cells:
                assert f"| {row.label} | {' | '.join(row.cells)} |" in page
    assert f"| | {' | '.join(NAMES[policy] for policy in policies_of(report))} |" in page


def test_the_readme_is_changed_between_its_marks_only(folder: Path, tmp_path: Path) -> None:
    readme, page = tmp_path / "README.md", tmp_path / "demo.md"
    readme.write_text(f"above\n{BEGIN}\nold numbers\n{END}\nbelow\n")
    for _ in range(2):  # writing again changes nothing
        write_markdown(folder, page, "make demo", readme)
        before, rest = readme.read_text().split(BEGIN)
        inside, after = rest.split(END)
        assert (before, after) == ("above\n", "\nbelow\n")
        assert "old numbers" not in inside
        assert headline(read_report(folder / "report.json"), "burst")[0] in inside


def test_a_readme_without_marks_is_left_alone(folder: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no marks\n")
    with pytest.raises(InputError, match="once each"):
        write_markdown(folder, tmp_path / "demo.md", "make demo", readme)
    assert readme.read_text() == "no marks\n"
