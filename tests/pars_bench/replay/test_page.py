"""The page from synthetic replays: the numbers are made up, no scheduler of vLLM ran."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic_replays import POLICIES, write_synthetic

from pars_bench.replay.page import write_page
from pars_bench.replay.page.compare import Replay
from pars_bench.replay.page.findings import headline, losses
from pars_bench.replay.page.need import by_depth
from pars_bench.replay.page.rows import Requests
from pars_bench.replay.page.shape import read_report
from pars_export.errors import InputError
from pars_model.__main__ import main

VOID = {"meta", "br", "path", "use", "rect", "line", "polyline"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic")
    write_synthetic(out)
    write_page(out)
    return out


class Page(HTMLParser):
    """Collects tags, attributes and text; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def parsed(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_answer_comes_before_anything_else(folder: Path) -> None:
    replay = Replay(read_report(folder / "report.json"))
    sentence = headline(replay, by_depth(replay, Requests(folder / "requests.parquet")))
    assert re.fullmatch(
        r"At your load, score model, tau 0\.5 against arrival order: mean time to last token "
        r"\u2212\d+\u00a0%, p99 \+\d+\u00a0%; it needs a queue: requests gain where \d+ or more "
        r"are waiting\.",
        sentence,
    )
    text = parsed(folder).text
    sections = ["Where it is worse", "Latencies: the traffic as it is", "By load", "Who pays",
                "The queue", "All measures", "What to doubt", "Words", "The traffic"]  # fmt: skip
    places = [text.index(" ".join(sentence.split())), *(text.index(name) for name in sections)]
    assert places == sorted(places)


def test_the_page_is_one_file_that_asks_nobody(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not re.search(r"https?://|//\w+\.\w+/|@import|url\((?!#)", html)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    addresses = [attrs[name] for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert all(address and address.startswith("#") for address in addresses)
    assert "$" not in html
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html


def test_every_chart_says_its_numbers_in_words(folder: Path) -> None:
    charts = parsed(folder).all("svg")
    assert len(charts) == 9
    for chart in charts:
        assert chart["role"] == "img"
        label = chart["aria-label"]
        assert label
        assert "arrival order: " in label
        assert "score model, tau 0.5: " in label
        assert re.search(r"\d", label)
    names = [attrs["id"] for attrs in parsed(folder).all("figure")]
    assert len(set(names)) == len(names) == len(charts)


def test_curves_of_one_seed_name_it(folder: Path, tmp_path: Path) -> None:
    assert parsed(folder).text.count("Of seed 0 alone.") == 5
    write_synthetic(tmp_path, ("fcfs", "oracle"), loads=(1.0,), seeds=(3,), requests=40)
    write_page(tmp_path)
    assert "alone." not in parsed(tmp_path).text


def test_ids_inside_charts_do_not_clash(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    used = set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'href="#([^"]+)"', html))
    defined = re.findall(r'\bid="([^"]+)"', html)
    assert used
    assert all(defined.count(name) == 1 for name in used)


def test_charts_follow_the_page_in_light_and_dark(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert {"--ink", "--line", "--fcfs", "--pars", "--hrrn", "--vllm-priority"} <= used
    for role in used:
        assert len(re.findall(rf"{role}: #", html)) == 2  # once for each of the two
    assert "#0102" not in html


def test_tables_have_heads_for_rows_and_columns(folder: Path) -> None:
    page = parsed(folder)
    assert len(page.all("table")) == len(page.all("caption")) == 7
    assert all(attrs.get("scope") or not attrs for attrs in page.all("th"))
    assert len(page.all("details")) == 4  # the loads, one open, and the deciles
    assert sum("open" in attrs for attrs in page.all("details")) == 1


def test_the_page_holds_the_numbers_of_the_report(folder: Path) -> None:
    text = parsed(folder).text
    for run in read_report(folder / "report.json")["runs"]:
        assert str(run["output_tokens"]) in text
        assert f"{max(d for _, d in run['queue_depth']):.0f}" in text
    for name in ("prompt length", "oracle", "HRRN, tau 0.5", "vLLM priority, tau 0.5", "0.49"):
        assert name in text
    assert "PARS against" not in text  # scores that were made up are not called PARS


def test_it_can_be_written_again_from_the_two_files_alone(folder: Path, tmp_path: Path) -> None:
    for name in ("report.json", "requests.parquet"):
        shutil.copy(folder / name, tmp_path / name)
    assert write_page(tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_bytes() == (folder / "report.html").read_bytes()


def test_markup_in_facts_is_shown_not_obeyed(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "requests.parquet", tmp_path)
    report = json.loads((folder / "report.json").read_text())
    report["traffic"]["name"] = "<script>x</script>"
    report["environment"]["<b>"] = "<i>"
    (tmp_path / "report.json").write_text(json.dumps(report))
    html = write_page(tmp_path).read_text()
    assert "<script" not in html
    assert "<b>:" not in html
    assert "&lt;script&gt;x&lt;/script&gt;" in html


@pytest.mark.parametrize("policies", [("fcfs",), ("pars", "oracle"), ("fcfs", "a new one")])
def test_few_or_unknown_orders_make_a_page_too(tmp_path: Path, policies: tuple[str, ...]) -> None:
    write_synthetic(tmp_path, policies, loads=(1.0,), seeds=(3,), requests=40)
    write_page(tmp_path)
    text = parsed(tmp_path).text
    assert ("nothing to compare" in text) == (policies[0] != "fcfs" or len(policies) == 1)
    assert ("a new one against arrival order" in text) == (policies[-1] == "a new one")
    assert "One load was replayed." in text


def test_two_requests_are_enough(tmp_path: Path) -> None:
    write_synthetic(tmp_path, loads=(2.0,), seeds=(0,), requests=2)
    write_page(tmp_path)
    text = parsed(tmp_path).text
    assert "At 2 times the traffic, score model" in text
    assert "it needs cannot be said, for no class of depths was met by 30 requests" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("traffic"), r"the file lacks traffic"),
        (lambda r: r["runs"][3].pop("ttlt"), r"runs\[3\] lacks ttlt"),
        (lambda r: r["runs"][0]["ttlt"].update(p99="x"), r"runs\[0\]\.ttlt\.p99 is 'x'"),
        (lambda r: r["runs"][0]["ttlt"].update(p99=float("nan")), r"p99 is nan; expected a finite"),
        (lambda r: r["runs"][1].update(requests=1.5), r"runs\[1\]\.requests is 1.5; expected"),
        (lambda r: r["runs"][1].update(requests=True), r"runs\[1\]\.requests is True"),
        (lambda r: r["runs"][1].update(policy=None), r"runs\[1\]\.policy is None; expected a text"),
        (lambda r: r.update(runs={}), r"runs is \{\}; expected a list"),
        (lambda r: r.update(traffic=[]), r"traffic is \[\]; expected an object"),
        (lambda r: r["runs"][2].update(queue_depth=[3]), r"queue_depth\[0\] is 3; expected a list"),
        (lambda r: r.update(runs=[]), "runs is empty"),
        (lambda r: r["runs"].append(r["runs"][0]), "runs holds fcfs, load 0.7, seed 0 twice"),
    ],
)  # fmt: skip
def test_a_damaged_report_is_refused_with_the_key(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    report = json.loads((folder / "report.json").read_text())
    change(report)
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match=message) as caught:
        read_report(tmp_path / "report.json")
    assert str(tmp_path / "report.json") in str(caught.value)


def test_files_that_are_missing_or_of_two_replays_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report.json does not exist: run `pars replay` first"):
        write_page(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        write_page(tmp_path)
    shutil.copy(folder / "report.json", tmp_path)
    with pytest.raises(InputError, match=r"requests.parquet does not exist"):
        write_page(tmp_path)
    (tmp_path / "requests.parquet").write_text("no table")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        write_page(tmp_path)
    table = pq.read_table(folder / "requests.parquet")
    pq.write_table(table.slice(1), tmp_path / "requests.parquet")
    with pytest.raises(InputError, match=r"holds 299 requests of fcfs, load 0\.7, seed 0, and"):
        write_page(tmp_path)
    pq.write_table(table.drop(["ttlt_s"]), tmp_path / "requests.parquet")
    with pytest.raises(InputError, match="lacks the columns ttlt_s"):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_rows_are_read_in_the_order_of_their_numbers(folder: Path, tmp_path: Path) -> None:
    table = pq.read_table(folder / "requests.parquet")
    mixed = table.take(np.random.default_rng(0).permutation(table.num_rows))
    pq.write_table(mixed, tmp_path / "requests.parquet")
    run = read_report(folder / "report.json")["runs"][7]
    straight = Requests(folder / "requests.parquet").read(run)
    shuffled = Requests(tmp_path / "requests.parquet").read(run)
    assert np.array_equal(straight.ttlt, shuffled.ttlt)
    assert np.array_equal(straight.arrival, np.sort(straight.arrival))


def test_a_loss_is_said_at_every_load(folder: Path) -> None:
    replay = Replay(read_report(folder / "report.json"))
    said = losses(replay)
    for load in ("0.7", "1", "1.3"):
        (line,) = [each for each in said if each.startswith(f"Load {load}: ")]
        assert "score model, tau 0.5 is worse than arrival order in" in line
        assert re.search(r"time to first token: \w+ \+\d", line)


def test_a_simpler_order_that_does_better_is_named(folder: Path) -> None:
    report = read_report(folder / "report.json")
    swap = {"prompt_length": POLICIES[2], POLICIES[2]: "prompt_length"}
    for run in report["runs"]:
        run["policy"] = swap.get(run["policy"], run["policy"])
    assert [
        line
        for line in losses(Replay(report))
        if "prompt length does better than score model, tau 0.5, mean time to last" in line
    ]


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_a_real_browser_shows_it(folder: Path, tmp_path: Path, width: int, dark: bool) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed: the page's look is not tested")
    picture = tmp_path / "page.png"
    scheme = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *scheme,
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2400",
         f"--screenshot={picture}", (folder / "report.html").as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    import matplotlib.image as image

    pixels = image.imread(picture)[..., :3]
    assert pixels.shape[:2] == (2400, width)
    assert pixels.std() > 0.05  # something is drawn on it
    assert (np.median(pixels) < 0.3) == dark


def test_the_command_writes_the_page_again(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (folder / "report.html").unlink()
    assert main(["replay", "--report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert (folder / "report.html").is_file()
    assert main(["replay", "--trace", str(tmp_path / "x.csv")]) != 0
    assert "--trace needs --out DIR" in capsys.readouterr().err
