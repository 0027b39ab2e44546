"""The report from synthetic rows: no engine was asked, the numbers are made up."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from synthetic_runs import SLOTS, synthetic_runs

from pars_bench import report as report_module
from pars_bench.facts import predictor_pairs
from pars_bench.findings import doubts, headline, losses, percent, seconds
from pars_bench.report import terminal_table, write_report
from pars_bench.results import write_results
from pars_bench.schema import Report, read_report
from pars_export.errors import InputError

PREDICTOR = {"tau": 0.61, "interval": [0.55, 0.66], "ceiling": 0.72, "milliseconds": 7.3}
SETTINGS = {"model": "synthetic", "slots": 4, "max_tokens": 512}
VOID = {"meta", "br", "path", "use", "rect", "line", "polyline"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic")
    write_results(out, synthetic_runs(), SETTINGS, PREDICTOR)
    write_report(out)
    return out


class Page(HTMLParser):
    """Collects text, tags and addresses; fails on tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [
            v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def parsed(folder: Path) -> Page:
    page = Page()
    page.feed((folder / "report.html").read_text(encoding="utf-8"))
    page.close()
    return page


def without(report: Report, policy: str) -> Report:
    return {**report, "runs": [run for run in report["runs"] if run["policy"] != policy]}


def test_the_file_has_the_shape_that_is_promised(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert set(report) == {"environment", "predictor", "runs"}
    assert {"tau", "interval", "ceiling", "milliseconds"} <= set(report["predictor"])
    assert len(report["runs"]) == 8
    for run in report["runs"]:
        assert run["policy"] in ("fcfs", "pars", "oracle", "prompt_length")
        assert run["arrivals"] in ("burst", "poisson")
        for measure in ("ttft", "ttlt", "per_token", "tpot"):
            assert set(run[measure]) == {"mean", "p50", "p90", "p99", "max"}
            assert all(isinstance(value, float) for value in run[measure].values())
        assert {"requests", "throughput", "oracle_gap_closed"} <= set(run)


def test_the_numbers_agree_with_the_rows(folder: Path) -> None:
    rows = pq.read_table(folder / "requests.parquet").to_pandas()
    for run in read_report(folder / "report.json")["runs"]:
        own = rows[(rows.policy == run["policy"]) & (rows.arrivals == run["arrivals"])]
        assert run["ttlt"] is not None
        assert run["per_token"] is not None
        assert run["ttlt"]["mean"] == pytest.approx(own.ttlt.mean())
        assert run["ttlt"]["p90"] == pytest.approx(own.ttlt.quantile(0.9))
        assert run["per_token"]["p99"] == pytest.approx((own.ttlt / own.tokens).quantile(0.99))
        ends = own.arrival_s + own.ttlt
        assert run["throughput"] == pytest.approx(own.tokens.sum() / ends.max())


def test_the_oracle_closes_the_gap_and_fcfs_none_of_it(folder: Path) -> None:
    gap = {
        (run["policy"], run["arrivals"]): run["oracle_gap_closed"]
        for run in read_report(folder / "report.json")["runs"]
    }
    for pattern in ("burst", "poisson"):
        assert gap["fcfs", pattern] == pytest.approx(0)
        assert gap["oracle", pattern] == pytest.approx(1)
        pars, length = gap["pars", pattern], gap["prompt_length", pattern]
        assert pars is not None
        assert length is not None
        assert length < pars < 1.05


def test_the_offered_load_is_the_rate_over_the_burst_without_its_tail(folder: Path) -> None:
    runs = synthetic_runs()
    rows = pq.read_table(folder / "requests.parquet").to_pandas()
    for run in read_report(folder / "report.json")["runs"]:
        if run["arrivals"] == "burst":
            assert run["offered_load"] is None
            continue
        own = rows[(rows.policy == run["policy"]) & (rows.arrivals == "burst")]
        busy = sorted(own.arrival_s + own.ttlt)[len(own) - SLOTS - 1]
        rate = runs[run["policy"]].rate
        assert run["offered_load"] == pytest.approx(rate * busy / (len(own) - SLOTS))


def test_a_difference_in_throughput_is_not_blamed_on_the_machine_alone(folder: Path) -> None:
    report = read_report(folder / "report.json")
    # A made-up queue has one speed, and yet: the orders leave slots idle for different times.
    rates = [run["throughput"] for run in report["runs"] if run["arrivals"] == "burst"]
    assert max(rates) > 1.01 * min(rates)
    said = [line for line in doubts(report) if line.startswith("Burst: throughput lay between")]
    assert len(said) == 1
    assert "beside idle slots, and that alone can cost throughput" in said[0]


def test_one_answer_that_differs_is_not_rounded_away(folder: Path) -> None:
    report = read_report(folder / "report.json")
    for run in report["runs"]:
        if run["policy"] == "pars":
            run["same_text_as_fcfs"] = 239 / 240
    (said,) = [line for line in doubts(report) if "the same text" in line]
    assert "down to 99.6 % of an order's answers" in said


def test_the_load_of_the_poisson_arrivals_is_not_called_slight(folder: Path) -> None:
    assert "slightly" not in report_module.WORDS["Poisson"]
    assert "load times the rate" in report_module.WORDS["Poisson"]


def test_tau_and_its_ceiling_stand_together_and_say_what_they_are_of() -> None:
    facts = {"tau": 0.4, "sha256": "ab", "ceiling": 0.5, "tau_config": "temperature=0"}
    pairs = predictor_pairs({**facts, "ceiling_config": "temperature=0.7"})
    assert pairs == [
        ("tau of score and length", "0.4"),
        ("responses that tau is of", "temperature=0"),
        ("ceiling (another run of the LLM)", "0.5"),
        ("responses that the ceiling is of", "temperature=0.7"),
        ("sha256", "ab"),
    ]


def said_of_pars(report: Report, counters: dict[str, int] | None) -> list[str]:
    runs = [
        {**run, "scorer": counters} if run["policy"] == "pars" else run for run in report["runs"]
    ]
    changed: Report = {**report, "runs": runs}  # type: ignore[typeddict-item]  # one value changed
    return [line for line in doubts(changed) if "PARS: " in line]


def test_a_healthy_scorer_is_one_sentence_with_an_exact_number(folder: Path) -> None:
    report = read_report(folder / "report.json")
    healthy = {"requests": 90, "scored": 86, "unknown": 4}
    assert said_of_pars(report, {**healthy, "not_sent": 0, "failures": 0, "losses": 0}) == [
        "PARS: 4 of 90 requests of its server, warm-up included, got no expected length."
    ]


@pytest.mark.parametrize("failing", ["not_sent", "failures", "losses"])
def test_a_scorer_that_failed_is_a_doubt(folder: Path, failing: str) -> None:
    counters = {"requests": 90, "scored": 90, failing: 3}
    first, careful = said_of_pars(read_report(folder / "report.json"), counters)
    assert careful.startswith("Careful: PARS: its scorer did not work throughout")
    assert "3 " in careful
    assert first.startswith("PARS: at least 0 and at most 90" if failing == "losses" else "PARS: 0")


def test_requests_asked_again_do_not_hide_those_that_were_missed(folder: Path) -> None:
    report = read_report(folder / "report.json")
    # 20 of 90 went unscored, and 30 were scored twice: the difference alone would say none.
    first, _ = said_of_pars(report, {"requests": 90, "scored": 100, "not_sent": 20, "losses": 1})
    assert "at most 90 of 90 requests" in first
    assert "-" not in first.replace("warm-up", "")


def test_an_order_that_fell_back_is_a_doubt(folder: Path) -> None:
    counters = {"requests": 90, "scored": 90, "fallbacks": 2}
    _, careful = said_of_pars(read_report(folder / "report.json"), counters)
    assert careful.startswith("Careful: PARS: it fell back to arrival order 2 times")


def test_counters_that_are_missing_are_a_doubt_where_there_is_a_scorer(folder: Path) -> None:
    report = read_report(folder / "report.json")
    (only,) = said_of_pars(report, None)
    assert only.startswith("Careful: PARS: the server's log holds no counters")
    assert not [line for line in doubts(report) if "Careful: arrival order" in line]


def test_the_counters_that_are_read_are_those_that_the_scheduler_keeps() -> None:
    from pars_vllm.metrics import Counters

    names = {field.name for field in fields(Counters)}
    assert {"requests", "scored", "unknown", "not_sent", "failures", "losses", "fallbacks"} <= names


def test_the_page_is_one_file_that_asks_nobody(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = parsed(folder)
    assert page.open == []
    assert not re.search(r"https?://|//\w+\.\w+/|@import|url\((?!#)", html)
    assert all(address.startswith("#") for address in page.addresses)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "$" not in html  # no hole of the template is left


def test_ids_of_the_pictures_do_not_clash(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    used = set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'href="#([^"]+)"', html))
    assert used
    defined = re.findall(r'\bid="([^"]+)"', html)
    assert all(defined.count(name) == 1 for name in used)


def test_the_page_holds_every_number_of_the_terminal(folder: Path) -> None:
    words = " ".join(" ".join(parsed(folder).words).split())
    report = read_report(folder / "report.json")
    table = terminal_table(report)
    numbers = set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", table))
    assert len(numbers) > 60
    assert {number for number in numbers if number not in words} == set()
    for sentence in [*headline(report, "burst"), *headline(report, "poisson"), *losses(report)]:
        assert " ".join(sentence.split()) in words
    for word in ("0.61", "0.55 to 0.66", "0.72", "7.3", "prompt length", "synthetic"):
        assert word in words
    for word in ("measured at: pars", "2026-01-02T03:04:05+00:00"):
        assert word in words


def test_answers_come_before_tables_and_pictures(folder: Path) -> None:
    tags = parsed(folder).tags
    assert tags.index("section") < tags.index("table") < tags.index("svg")
    assert tags.count("table") == 2
    assert tags.count("svg") == 6
    assert len(list((folder / "plots").glob("*.png"))) == 6


def test_pictures_follow_the_page_colours(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    svg = html[html.index("<svg") : html.rindex("</svg>")]
    for role in ("--ink", "--line", "--fcfs", "--pars", "--oracle", "--prompt-length"):
        assert f"var({role})" in svg
        assert f"{role}:" in html
    assert "#0102" not in svg


def test_it_can_be_written_again_from_the_two_files_alone(folder: Path, tmp_path: Path) -> None:
    for name in ("report.json", "requests.parquet"):
        shutil.copy(folder / name, tmp_path / name)
    write_report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == (folder / "report.html").read_bytes()


def test_a_loss_is_said_first_hand(folder: Path) -> None:
    report = read_report(folder / "report.json")
    swap = {"fcfs": "pars", "pars": "fcfs"}
    # PARS with arrival order's numbers: it loses everything that it won.
    swapped: Report = {
        **report,
        "runs": [
            {**run, "policy": swap.get(run["policy"], run["policy"])} for run in report["runs"]
        ],
    }
    burst = losses(swapped)[0]
    assert "PARS is worse than arrival order in time to first token: mean +" in burst
    assert "(+" in headline(swapped, "burst")[0]


def test_without_pars_the_oracle_is_the_subject_and_without_both_nothing_is(folder: Path) -> None:
    report = without(read_report(folder / "report.json"), "pars")
    assert headline(report, "burst")[0].startswith("An order by the true lengths")
    report = without(without(report, "oracle"), "prompt_length")
    assert headline(report, "burst") == ["Only arrival order was measured: nothing to compare."]
    assert "Time to last token (TTLT)" in terminal_table(report)


def test_markup_in_facts_is_shown_not_obeyed(tmp_path: Path) -> None:
    write_results(tmp_path, synthetic_runs(20), {"model": "<script>x</script>"}, {"note": "<b>"})
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "<script>" not in html
    assert "&lt;script&gt;x&lt;/script&gt;" in html


def test_two_requests_are_enough_for_a_report(tmp_path: Path) -> None:
    write_results(tmp_path, synthetic_runs(2), {}, {})
    write_report(tmp_path)
    assert parsed(tmp_path).open == []


def test_files_that_are_missing_or_of_two_benchmarks_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"report.json does not exist: run `pars bench serving`"):
        write_report(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        write_report(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(InputError, match="lacks environment, predictor, runs"):
        write_report(tmp_path)
    shutil.copy(folder / "report.json", tmp_path)
    with pytest.raises(InputError, match=r"requests.parquet does not exist"):
        write_report(tmp_path)
    table = pq.read_table(folder / "requests.parquet")
    pq.write_table(table.slice(1), tmp_path / "requests.parquet")
    with pytest.raises(InputError, match="they are not of one benchmark"):
        write_report(tmp_path)
    pq.write_table(table.drop(["tokens"]), tmp_path / "requests.parquet")
    with pytest.raises(InputError, match="lacks the columns tokens"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1234"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123"),
     (0.0123, "0.0123"), (0.0, "0.0000")],
)  # fmt: skip
def test_seconds_have_three_digits(value: float, text: str) -> None:
    assert seconds(value) == text


def test_percent_has_its_sign() -> None:
    assert percent(0.5) == "\u221250\u00a0%"
    assert percent(1.25) == "+25\u00a0%"


@pytest.mark.parametrize("width", [390, 1200])
def test_a_real_browser_shows_it(folder: Path, tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed")
    picture = tmp_path / "page.png"
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2400",
         f"--screenshot={picture}", (folder / "report.html").as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    import matplotlib.image as image

    pixels = image.imread(picture)
    assert pixels.shape[:2] == (2400, width)
    assert pixels[..., :3].std() > 0.05  # something is drawn on it


def test_the_command_writes_the_page_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    report_module.add_arguments(parser)
    assert report_module.run(parser.parse_args([str(folder)])) == 0
    assert "Burst, 80 requests" in capsys.readouterr().out


def test_a_simpler_order_that_does_better_is_named(folder: Path) -> None:
    report = read_report(folder / "report.json")
    assert not [line for line in losses(report) if "plain prompt length" in line]
    names = {"pars": "prompt_length", "prompt_length": "pars"}
    runs = [{**run, "policy": names.get(run["policy"], run["policy"])} for run in report["runs"]]
    swapped: Report = {**report, "runs": runs}  # type: ignore[typeddict-item]  # the same keys
    assert [line for line in losses(swapped) if line.startswith("Burst: plain prompt length")]
