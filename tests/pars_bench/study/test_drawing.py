"""Requests drawn from length tables, windows cut out of traces, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pars_bench.replay.traffic import read_traffic
from pars_bench.study.lengths import LengthSource, Samples, write_requests
from pars_bench.study.windows import write_window
from pars_export.errors import InputError

SOURCE = LengthSource(("ours",), Samples("llm", "T=0.7"), "tokens", Samples("llm", "T=0.5"))


def prompt(number: int) -> str:
    """What CSV must quote, four bytes for each token."""
    return '",\n,' * (number + 1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    names = [f"{number}" for number in range(6)]
    prompts = {"dataset": ["ours"] * 6 + ["theirs"], "prompt_id": [*names, "0"]}
    pq.write_table(
        pa.table({**prompts, "prompt": [prompt(n) for n in range(7)]}),
        folder / "prompts.parquet",
    )
    rows = [("ours", name, "llm", "T=0.7", 10 * int(name)) for name in names]
    rows += [("ours", name, "llm", "T=0.5", 10 * int(name) + 3) for name in names[:5]]
    rows += [("ours", "0", "other", "T=0.7", 999), ("theirs", "0", "llm", "T=0.7", 999)]
    columns = ("dataset", "prompt_id", "model", "gen_config", "length")
    pq.write_table(
        pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))),
        folder / "lengths.parquet",
    )
    return folder


def drawn(path: Path) -> list[tuple[str | None, int, int, int | None]]:
    traffic = read_traffic(path, arrivals="burst", rate=None, limit=None, seed=0)
    return [(r.prompt, r.prompt_tokens, r.output_tokens, r.rerun_tokens) for r in traffic]


def test_every_prompt_once_while_they_last(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "traffic.csv"
    assert write_requests(data, SOURCE, 5, 0, path) == (5, 5)  # the sixth has no rerun
    assert sorted(drawn(path)) == [(prompt(n), n + 1, max(1, 10 * n), 10 * n + 3) for n in range(5)]
    first = drawn(path)
    write_requests(data, SOURCE, 5, 0, path)
    assert drawn(path) == first
    write_requests(data, SOURCE, 5, 1, path)
    assert drawn(path) != first


def test_again_where_there_are_too_few(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "traffic.csv"
    assert write_requests(data, SOURCE, 40, 0, path) == (40, 5)
    assert len(set(drawn(path))) == 5


def test_no_such_lengths(data: Path, tmp_path: Path) -> None:
    source = LengthSource(("ours",), Samples("nobody"), "tokens")
    with pytest.raises(InputError, match="holds no lengths of ours, nobody, tokens"):
        write_requests(data, source, 5, 0, tmp_path / "traffic.csv")
    with pytest.raises(InputError, match=r"give --data-root a folder with lengths\.parquet"):
        write_requests(tmp_path, source, 5, 0, tmp_path / "traffic.csv")
    table = pq.read_table(data / "lengths.parquet").drop_columns(["gen_config"])
    pq.write_table(table, data / "lengths.parquet")
    with pytest.raises(InputError, match=r"lengths\.parquet .*gen_config"):
        write_requests(data, SOURCE, 5, 0, tmp_path / "traffic.csv")


def test_a_window_is_the_traces_own_lines(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace.csv.gz", tmp_path / "window.csv"
    header = "TIMESTAMP,ContextTokens,GeneratedTokens"
    rows = [f"2023-11-16 18:15:{second:02},{second + 1},5" for second in range(30)]
    with gzip.open(trace, "wt") as file:
        file.write("\n".join([header, *rows]))
    start, total = write_window(trace, 10, 0, path)
    assert total == 30
    assert path.read_text().splitlines() == [header, *rows[start : start + 10]]
    traffic = read_traffic(path, arrivals="trace", rate=None, limit=None, seed=0)
    assert [request.arrival_s for request in traffic] == list(range(10))
    with pytest.raises(InputError, match="holds 30 requests; expected at least 31"):
        write_window(trace, 31, 0, path)
