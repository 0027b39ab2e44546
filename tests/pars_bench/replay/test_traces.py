"""Trace files: each format from rows of its kind, and one sentence for each way to be wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pars_bench.replay.traces import FORMATS, MOONCAKE, TraceFile, estimated_tokens, recognise
from pars_bench.replay.traffic import TrafficRequest, read_traffic
from pars_export.errors import InputError, ParsError

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
OWN = "arrival_s,prompt_tokens,output_tokens\n"
TIMED = '{"arrival_s": 5, "prompt_tokens": 3, "output_tokens": 1}\n'
UNTIMED = '{"prompt_tokens": 3, "output_tokens": 1}\n'


def requests(path: Path) -> list[TrafficRequest]:
    return list(read_traffic(path, arrivals=None, rate=None, limit=None, seed=0))


def written(folder: Path, text: str, name: str = "trace", zipped: bool = False) -> Path:
    path = folder / name
    content = text.encode("utf-8", "surrogateescape")
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


def mooncake(timestamp: object = 0, tokens: object = 600, **more: object) -> str:
    row = {"timestamp": timestamp, "input_length": tokens, "output_length": 5, "hash_ids": [4, 7]}
    return json.dumps({**row, **more}) + "\n"


@pytest.mark.parametrize("zipped", [False, True])
def test_azure_times_are_read_to_the_microsecond(tmp_path: Path, zipped: bool) -> None:
    text = (
        AZURE + "2023-11-16 23:59:59.9799600,4808,10\n"
        "2023-11-17 00:00:00.0319600,3180,8\n"
        "2023-11-17 00:00:01.0319600+00:00,1,1\n"
    )
    got = requests(written(tmp_path, text, zipped=zipped))
    assert [(r.prompt_tokens, r.output_tokens) for r in got] == [(4808, 10), (3180, 8), (1, 1)]
    assert [r.arrival_s for r in got] == pytest.approx([0.0, 0.052, 1.052], abs=1e-6)


def test_mooncake_keeps_its_prefix_blocks(tmp_path: Path) -> None:
    path = written(tmp_path, mooncake() + "\n" + mooncake(1500, 1024, hash_ids=[4, 9]), zipped=True)
    traffic = read_traffic(path, arrivals=None, rate=None, limit=None, seed=0)
    assert traffic.block_tokens == 512
    assert list(traffic) == [
        TrafficRequest(0.0, 600, 5, blocks=(4, 7)),
        TrafficRequest(1.5, 1024, 5, blocks=(4, 9)),
    ]


def test_a_file_of_ones_own_may_say_more(tmp_path: Path) -> None:
    row = {"arrival_s": 1, "prompt": "hello, you", "output_tokens": 3, "tenant": "a"}
    rows = [{**row, "rerun_tokens": 4}, {**row, "prompt_tokens": 9, "extra": [1]}]
    lines = written(tmp_path, "".join(json.dumps(each) + "\n" for each in rows))
    assert requests(lines) == [
        TrafficRequest(0.0, 3, 3, "hello, you", tenant="a", rerun_tokens=4),
        TrafficRequest(0.0, 9, 3, "hello, you", tenant="a"),
    ]
    comma = written(tmp_path, '\ufeffprompt, output_tokens\n"a, b",2\n\nc,3.0\n', "own.csv")
    assert [(r.prompt, r.output_tokens) for r in requests(comma)] == [("a, b", 2), ("c", 3)]


def test_the_same_rows_are_recognised_as_csv_and_as_jsonl(tmp_path: Path) -> None:
    rows = [{"arrival_s": 0.5, "prompt_tokens": 4, "output_tokens": 6}]
    lines = written(tmp_path, json.dumps(rows[0]) + "\n", "a.csv")  # the name says nothing
    comma = written(tmp_path, OWN + "0.5,4,6\n", "b.jsonl")
    assert requests(lines) == requests(comma) == [TrafficRequest(0.0, 4, 6)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: give a trace"),
        ("\n \n", "is empty"),
        (OWN, "holds no requests"),
        ("a,b\n1,2\n", r"is of no known format: found a, b; expected the columns of one of: Azure"),
        ("hello", "is of no known format: found hello"),
        ('["a"]\n', "is of no known format"),
        ('{"timestamp": 0,\n "input_length": 3}\n', "line 1: not valid JSON"),
        ("TIMESTAMP,ContextTokens\n1,2\n", "lacks GeneratedTokens of the format Azure: found TIME"),
        (mooncake().replace("hash_ids", "hashes"), "lacks hash_ids of the format Mooncake"),
        ("arrival_s,output_tokens\n0,1\n", "lacks prompt_tokens or prompt of the format requests"),
        (mooncake() + '{"timestamp": 1}\n', "line 2: lacks input_length, output_length, hash_ids"),
        (OWN + "0,1,0\n", r"line 2: output_tokens is '0'; expected a whole number of tokens, 1 or"),
        (OWN + "0,0,1\n", r"line 2: prompt_tokens is '0'"),
        (OWN + "0,1,2\n1,2.5,1\n", r"line 3: prompt_tokens is '2.5'"),
        (OWN + "0,1,many\n", "line 2: output_tokens is 'many'"),
        (OWN + "0,1,1e400\n", "line 2: output_tokens is '1e400'"),
        (OWN + "-1,1,1\n", "line 2: arrival_s is '-1'; expected a number, 0 or more"),
        (OWN + "nan,1,1\n", "line 2: arrival_s is 'nan'"),
        (OWN + ",1,1\n", "line 2: arrival_s is ''"),
        (OWN + "0,1,1\n5,1,1\n3,1,1\n", "line 4: arrives 2 s before the row above it: sort the"),
        (OWN + "0,1,1\n1e17,1,1\n", r"line 3: arrival_s is 1e\+17 s, 1e\+17 s after the first"),
        (OWN + "0,1,1\n2e9,1,1\n", "line 3: arrival_s is 2e.09 s, .* milliseconds or nanoseconds"),
        (OWN + "1.7e12,1,1\n", r"line 2: arrival_s is 1.7e\+12 s, 0 s after the first"),
        (OWN + "0,1,1\n0,1\n", "line 3: 2 values under a header of 3 columns"),
        (OWN + "0,1,1,9\n", "line 2: 4 values under a header of 3 columns"),
        ("prompt,output_tokens\n,1\n", "line 2: prompt is ''; expected a text"),
        (AZURE + "yesterday,1,1\n", "line 2: TIMESTAMP is 'yesterday'; expected a date and time"),
        (AZURE + "2023-11-16,1,1\n2023-11-15,1,1\n", "line 3: arrives 86400 s before"),
        (mooncake() + "{\n", "line 2: not valid JSON"),
        (mooncake() + "[" * 100_000 + "\n", "line 2: not valid JSON"),
        ('{"parts": ' + "[" * 50_000 + "\n", "is neither YAML nor JSON"),
        (mooncake() + "[1]\n", "line 2: found a list; expected one JSON object a line"),
        (mooncake(-1), "line 1: timestamp is -1"),
        (mooncake(True), "line 1: timestamp is True"),
        (mooncake(tokens=513.5), "line 1: input_length is 513.5"),
        (mooncake(tokens=9**99), "line 1: hash_ids is"),
        (mooncake(hash_ids=[1]), "line 1: hash_ids is .*; expected 2 whole numbers, one for each"),
        (mooncake(hash_ids=[1, "x"]), "line 1: hash_ids is .*; expected 2 whole numbers"),
        (mooncake(hash_ids=None), "line 1: hash_ids is None"),
        ('{"prompt": 3, "output_tokens": 1}\n', "line 1: prompt is 3; expected a text"),
        ('{"prompt": "x", "output_tokens": 1, "rerun_tokens": 0}\n', "line 1: rerun_tokens is 0"),
        (UNTIMED + TIMED, "line 1: lacks arrival_s, which line 2 has: give every row a time of"),
        (TIMED + TIMED + UNTIMED, "line 3: lacks arrival_s, which line 1 has"),
        ("TIMESTAMP\udcff,x\n", "is not UTF-8 text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    for zipped in (False, True):
        with pytest.raises(InputError, match=message):
            requests(written(tmp_path, text, zipped=zipped))


def test_a_first_row_is_read_as_all_others_are(tmp_path: Path) -> None:
    long = {"prompt": "word " * 20_000, "output_tokens": 5}
    apart = {"prompt": "a\u2028b", "output_tokens": 5}
    texts = [
        '"arrival_s","prompt_tokens","output_tokens"\n"0","25000","5"\n',
        "\n \n" + OWN + "0,25000,5\n",
        'output_tokens,"prompt"\n5,"x\nparts: none\n"\n',
        json.dumps(long) + "\n",
        json.dumps(apart, ensure_ascii=False) + "\n",
    ]
    read = [requests(written(tmp_path, text, str(number))) for number, text in enumerate(texts)]
    assert [(r.prompt_tokens, r.output_tokens) for (r,) in read] == [
        (25_000, 5), (25_000, 5), (4, 5), (25_000, 5), (2, 5),
    ]  # fmt: skip


def test_long_lines_with_an_error_are_shown_short(tmp_path: Path) -> None:
    path = written(tmp_path, OWN + f"0,1,{'9x' * 1000}\n")
    with pytest.raises(InputError) as caught:
        requests(path)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_gzip_file_that_ends_early_is_damaged(tmp_path: Path) -> None:
    rows = "".join(f"{place},{random.randrange(1, 9**9)},5\n" for place in range(20_000))
    path = written(tmp_path, OWN + rows, zipped=True)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="is a damaged gzip file"):
        requests(path)


def test_a_missing_file_and_a_damaged_table_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist or is no file"):
        requests(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match="does not exist or is no file"):
        requests(tmp_path)
    (tmp_path / "table.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        requests(tmp_path / "table.parquet")


@given(text=st.text())
def test_an_estimate_is_at_least_one_token_and_grows_with_the_text(text: str) -> None:
    assert 1 <= estimated_tokens(text) <= estimated_tokens(text + "abcd")


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.integers(1, 9**9), st.integers(1, 9**9)), min_size=1)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sorted_rows_are_read_as_written(
    tmp_path: Path, rows: list[tuple[float, int, int]]
) -> None:
    rows.sort()
    text = OWN + "".join(f"{time!r},{prompt},{output}\n" for time, prompt, output in rows)
    got = requests(written(tmp_path, text))
    assert [(r.prompt_tokens, r.output_tokens) for r in got] == [row[1:] for row in rows]
    assert [r.arrival_s for r in got] == [row[0] - rows[0][0] for row in rows]


values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 2000), st.floats(), st.text(max_size=8),
    st.lists(st.one_of(st.integers(-1, 9), st.text(max_size=3)), max_size=3),
)  # fmt: skip
columns = {name for each in FORMATS for column in each.columns for name in column.split("|")}
names = st.sampled_from(
    sorted(columns | {"arrival_s", "tenant", "rerun_tokens", "model", "split", "other"})
)


def read_or_refused(path: Path) -> list[TrafficRequest] | None:
    """The requests; None where the file was refused with one sentence that names it."""
    refusal = ""
    try:
        return requests(path)
    except ParsError as error:
        refusal = str(error)
    assert str(path) in refusal
    assert "\n" not in refusal
    return None


@given(rows=st.lists(st.dictionaries(names, values, max_size=9), max_size=4), comma=st.booleans())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_are_read_or_refused_in_a_sentence(
    tmp_path: Path, rows: list[dict[str, object]], comma: bool
) -> None:
    if comma:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["x"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        path = written(tmp_path, text.getvalue(), "any.csv")
    else:
        path = written(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "any.jsonl")
    got = read_or_refused(path)
    if got is not None:
        assert got[0].arrival_s == 0.0
        assert all(r.prompt_tokens >= 1 and r.output_tokens >= 1 for r in got)
        assert [r.arrival_s for r in got] == sorted(r.arrival_s for r in got)


@given(content=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bytes"
    for start in (b"", b"\x1f\x8b", b"PAR1", OWN.encode()):
        path.write_bytes(start + content)
        read_or_refused(path)


def test_formats_are_told_apart_by_columns_alone(tmp_path: Path) -> None:
    kind, columns = recognise(written(tmp_path, mooncake()))
    assert kind is MOONCAKE
    assert columns == {"timestamp", "input_length", "output_length", "hash_ids"}
    assert next(TraceFile(tmp_path / "trace", kind)()).arrival_s == 0.0
