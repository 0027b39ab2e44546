from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pars_export import InputError, Predictor
from pars_export.calibration import Calibration
from pars_model.experiments import default_predictor
from pars_model.experiments.workbench import Workbench
from pars_model.lengths import read_lengths
from pars_model.universal import sources
from pars_model.universal.build import calibrate
from pars_model.universal.fit import Material, Recipe
from pars_model.universal.judge import judge
from pars_model.universal.sources import FAMILIES, SOURCES, write_listed

LLMS = {"oasst_eval": "pythia-12b", "mmlu_pro": "Mistral-7B", "zeroeval_crux": "Yi-1.5-9B-Chat"}
KINDS = {"word": 3, "list": 40, "story": 400}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three listed data sets, and one that is for judging; LLMs that are listed, and one not."""
    root = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    prompts, lengths = [], []
    for dataset, llm in {**LLMS, "arena_hard_v2": "gpt-4o"}.items():
        for number in range(80):
            kind = rng.choice(list(KINDS))
            text = f"{dataset}: write a {kind} about the {rng.choice(['sea', 'moon'])} {number}"
            prompts.append({"dataset": dataset, "prompt_id": str(number), "prompt": text})
            for model in (llm, "gpt-4"):
                lengths.append(
                    {
                        "dataset": dataset,
                        "prompt_id": str(number),
                        "model": model,
                        "sample": 0,
                        "length": max(1, round(KINDS[kind] * rng.lognormvariate(0, 0.2))),
                        "max_new_tokens": -1,
                        "finish": None,
                        "gen_config": None,
                    }
                )
    pq.write_table(pa.Table.from_pylist(prompts), root / "prompts.parquet")
    pq.write_table(pa.Table.from_pylist(lengths), root / "lengths.parquet")
    return root


@pytest.fixture(autouse=True)
def fewer_own_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    few = list(sources._own())[:300]
    monkeypatch.setattr(sources, "_own", lambda: few)


def test_only_what_is_listed_is_learned_from(data_root: Path, tmp_path: Path) -> None:
    found = write_listed(data_root, tmp_path / "listed.parquet", check=False)
    assert {name: entry["rows"] for name, entry in found.items() if name in LLMS} == dict.fromkeys(
        LLMS, 80
    )
    rows = pq.read_table(tmp_path / "listed.parquet").to_pylist()
    assert {row["model"] for row in rows} == {*LLMS.values(), "SmolLM2-135M-Instruct"}
    assert {row["dataset"] for row in rows} == {*LLMS, "pars-demo"}


def test_other_lengths_than_listed_are_refused(data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the lengths of oasst_eval are .* listed in sources"):
        write_listed(data_root, tmp_path / "listed.parquet")
    assert not (tmp_path / "listed.parquet").exists()
    with pytest.raises(InputError, match="does not exist: give the folder"):
        write_listed(tmp_path, tmp_path / "listed.parquet")


def test_every_source_is_listed() -> None:
    listed = json.loads(sources.LISTING.read_text(encoding="utf-8"))
    assert set(listed) == {source.dataset for source in (*SOURCES, sources.OWN)}


def test_a_family_left_out_teaches_nothing(data_root: Path, tmp_path: Path) -> None:
    write_listed(data_root, tmp_path / "listed.parquet", check=False)
    table = read_lengths(tmp_path / "listed.parquet")
    material = Material(table, Recipe())
    train = material.left_out("chat")
    chat = [table.datasets[i] for i in np.unique(table.dataset[~train[table.prompt]])]
    assert chat == ["oasst_eval"]
    numbers, _, weight = material.lesson(train)
    assert train[numbers].all()
    by_family = np.bincount(material.family[numbers], weight, len(FAMILIES))
    assert by_family[FAMILIES.index("own prompts")] < 0.5 * weight.sum(), "most of the prompts"
    fitted = material.fit(train)
    scores = fitted.scores
    assert np.abs(fitted.scorer().score(table.prompts) - scores).max() < 0.02
    cell: Any = judge(table, "oasst_eval", {"default": scores, "same": scores}, resamples=20)
    value, low, high = cell["tau"]["default"]
    assert value > 0.5
    assert low < value < high
    assert cell["gain"] == {"same": [0.0, 0.0, 0.0]}
    assert list(cell["by_llm"]) == ["pythia-12b"]
    curve = Calibration.from_json(calibrate(material, scores))
    assert (np.diff(curve.tokens) > 0).all()


def test_the_experiment_writes_the_folder_that_ships(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = tmp_path / "sources.json"
    listing.write_text(json.dumps(write_listed(data_root, tmp_path / "x.parquet", check=False)))
    monkeypatch.setattr(sources, "LISTING", listing)
    monkeypatch.setattr(default_predictor, "LISTING", listing)
    bench = Workbench("default-predictor", data_root, tmp_path / "out")
    monkeypatch.setattr(default_predictor, "DEFAULT_PREDICTOR", tmp_path / "none")
    text = default_predictor.run(bench).markdown(bench.minutes)
    assert "| arena_hard_v2 | 2 | 80 |" in text
    assert "No default predictor ships with this installation" in text
    predictor = Predictor.load(tmp_path / "out" / "default-predictor")
    tokens = predictor.expected_tokens([f"write a {kind} about the sea" for kind in KINDS])
    assert (np.diff(tokens) > 0).all()
    card = (tmp_path / "out" / "default-predictor" / "CARD.md").read_text(encoding="utf-8")
    assert "| oasst_eval | pythia-12b |" in card
    assert "Where it fails" in card
    # As if that one had shipped: built again with nothing kept, it is the same.
    monkeypatch.setattr(
        default_predictor, "DEFAULT_PREDICTOR", tmp_path / "out" / "default-predictor"
    )
    bench = Workbench("default-predictor", data_root, tmp_path / "again")
    assert "(within 0.01)" in default_predictor.run(bench).markdown(bench.minutes)
