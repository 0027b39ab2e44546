from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pars_export import InputError, Predictor, PredictorError
from pars_export.artifact import DEFAULT_PREDICTOR, read_manifest, write_predictor
from pars_export.calibration import Calibration
from pars_export.runtimes.arrays import arrays_bytes, floats, read_arrays
from pars_export.runtimes.ngrams import NgramNetwork
from pars_export.runtimes.student import StudentNetwork
from pars_export.words import WordTokenizer
from pars_model.calibration import fit_calibration
from pars_model.collect import read_prompts
from pars_model.course import Course
from pars_model.experiments import default_predictor
from pars_model.experiments.workbench import Workbench
from pars_model.lengths import read_lengths
from pars_model.student import StudentShape
from pars_model.universal import sources
from pars_model.universal.build import calibrate, write_default
from pars_model.universal.card import LENGTH, OURS, OWNLESS, RIDGE, Findings, render
from pars_model.universal.corpus import Sizes, make_corpus, whole_words
from pars_model.universal.fit import Material, Recipe
from pars_model.universal.instructions import prompts
from pars_model.universal.instructions.prompts import generate
from pars_model.universal.judge import compare, judge, mean_tau
from pars_model.universal.reader import _kept_components
from pars_model.universal.responses import Responses, coverage
from pars_model.universal.sources import FAMILIES, LISTED, write_listed
from pars_model.universal.variants import SHIPPED, VARIANTS

LLMS = {"oasst_eval": "pythia-12b", "mmlu_pro": "Mistral-7B", "zeroeval_crux": "Yi-1.5-9B-Chat"}
LENGTHS = Path(prompts.__file__).parent / "lengths.parquet"
PERCENT = ("50%", "80%", "90%")
KINDS = {"word": 3, "list": 40, "story": 400}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three listed data sets, and two for judging, one of which has prompts of the first alone;
    LLMs that are listed, and one not."""
    root = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    prompts: list[dict[str, str]] = []
    lengths: list[dict[str, object]] = []
    for dataset, llm in {**LLMS, "arena_hard_v2": "gpt-4o", "repeats": "gpt-4o"}.items():
        for number in range(80):
            kind = rng.choice(list(KINDS))
            text = f"{dataset}: write a {kind} about the {rng.choice(['sea', 'moon'])} {number}"
            text = prompts[number]["prompt"] if dataset == "repeats" else text
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
    few = {source.dataset: list(sources._own(source))[:300] for source in sources.OWN}
    monkeypatch.setattr(sources, "_own", lambda source: few[source.dataset])


def test_only_what_is_listed_is_learned_from(data_root: Path, tmp_path: Path) -> None:
    found = write_listed(data_root, tmp_path / "listed.parquet", check=False)
    assert {name: entry["rows"] for name, entry in found.items() if name in LLMS} == dict.fromkeys(
        LLMS, 80
    )
    rows = pq.read_table(tmp_path / "listed.parquet").to_pylist()
    assert {row["model"] for row in rows} == {*LLMS.values(), "SmolLM2-135M-Instruct"}
    assert {row["dataset"] for row in rows} == {*LLMS, "pars-demo", "pars-instructions"}


def test_other_lengths_than_listed_are_refused(data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the lengths of oasst_eval are .* listed in sources"):
        write_listed(data_root, tmp_path / "listed.parquet")
    assert not (tmp_path / "listed.parquet").exists()
    with pytest.raises(InputError, match="does not exist: give the folder"):
        write_listed(tmp_path, tmp_path / "listed.parquet")


def test_every_source_is_listed_and_what_ships_learned_from_them() -> None:
    listed = json.loads(sources.LISTING.read_text(encoding="utf-8"))
    assert set(listed) == {source.dataset for source in LISTED}
    card = json.loads((DEFAULT_PREDICTOR / "card.json").read_text(encoding="utf-8"))
    assert card["sources"] == listed


def small() -> Recipe:
    """The recipe with fewer made-up prompts and a smaller student."""
    student = replace(
        Recipe().student,
        shape=StudentShape(300, 256, 32, 32, 32),
        course=Course(epochs=3, lr=1e-2, batch_size=128),
    )
    shape = replace(Recipe().shape, topics=2)
    made = Sizes(draws=0, swapped=150, spliced=150)
    return replace(Recipe(), shape=shape, made=made, student=student)


def test_a_family_left_out_teaches_nothing(data_root: Path, tmp_path: Path) -> None:
    write_listed(data_root, tmp_path / "listed.parquet", check=False)
    table = read_lengths(tmp_path / "listed.parquet")
    material = Material(table, small(), tmp_path)
    numbers, _, weight = material.lesson(["chat"])
    chat = material.family == FAMILIES.index("chat")
    assert chat.sum() == 80
    assert not chat[numbers].any()
    by_family = np.bincount(material.family[numbers], weight, len(FAMILIES))
    assert by_family[FAMILIES.index("own prompts")] < 0.5 * weight.sum(), "most of the prompts"
    exam, reading = (by_family[FAMILIES.index(name)] for name in ("exam", "code reading"))
    assert exam / reading == pytest.approx(material.recipe.exam)
    fitted = material.fit(["chat"])
    scores = fitted.scores
    read = WordTokenizer(fitted.tokenizer_json, fitted.spec).read_all(table.prompts)
    deviations = []
    for network in (StudentNetwork(fitted.arrays), NgramNetwork(fitted.arrays)):
        found = network(*read)[numbers]
        mean = np.average(found, weights=weight)
        deviations.append(np.sqrt(np.average((found - mean) ** 2, weights=weight)))
    assert deviations[1] / deviations[0] == pytest.approx(material.recipe.wide, rel=0.05)
    assert np.abs(fitted.scorer().score(table.prompts) - scores).max() < 0.1 * scores.std()
    cell: Any = judge(table, "oasst_eval", {"default": scores, "same": scores}, resamples=20)
    mean = np.average(scores[numbers], weights=weight)
    assert mean == pytest.approx(0, abs=1e-4), "the unit of all fits"
    assert np.average((scores[numbers] - mean) ** 2, weights=weight) == pytest.approx(1, abs=1e-3)
    value, low, high = cell["tau"]["default"]
    assert value > 0.3
    assert low < value < high
    assert cell["gain"] == {"same": [0.0, 0.0, 0.0]}
    assert list(cell["by_llm"]) == ["pythia-12b"]
    curve = Calibration.from_json(calibrate(material, scores))
    assert (np.diff(curve.tokens) > 0).all()
    ours = [source.family for source in sources.OWN]
    own = np.isin(material.family, [FAMILIES.index(each) for each in ours])[table.prompt]
    cut = replace(table, sample_censored=np.repeat(own, np.diff(table.sample_start)))
    others = calibrate(material, scores, [each for each in FAMILIES if each not in ours])
    assert calibrate(Material(cut, material.recipe), scores) == others != curve.to_json()
    # Whatever the lengths of the family: none is read.
    longer = np.where(chat[table.prompt], table.length[::-1], table.length)
    again = Material(replace(table, length=longer), material.recipe, tmp_path).fit(["chat"])
    assert np.array_equal(again.scores, scores)


def test_own_answers_of_different_caps_are_not_ranked_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, object]] = [
        dict.fromkeys(("prompt", "model", "config"), "same") for _ in range(3)
    ]
    ends = ((5, 8, "stop"), (8, 8, "length"), (9, 16, "stop"))
    for row, (tokens, cap, end) in zip(rows, ends, strict=True):
        row |= {"response_tokens": tokens, "max_tokens": cap, "finish_reason": end}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "lengths.parquet")
    monkeypatch.undo()  # of the fixture that takes few of them
    monkeypatch.setattr(sources, "files", Path)
    found = list(sources._own(replace(sources.OWN[0], table=f"{tmp_path}:lengths.parquet")))
    assert [row["config"] for row in found] == ["same, at most 8"] * 2 + ["same, at most 16"]


def test_a_part_of_a_data_set_is_no_way_of_decoding(tmp_path: Path) -> None:
    for dataset, wanted in (("mmlu_pro", ""), ("arena_hard_v2", "physics")):
        asked = {"dataset": dataset, "prompt_id": "1"}
        length: dict[str, object] = {"model": "m", "sample": 0, "length": 9, "max_new_tokens": -1}
        told = {"finish": None, "gen_config": "physics"}
        for name, row in (("prompts", {"prompt": "Why?"}), ("lengths", length | told)):
            pq.write_table(pa.Table.from_pylist([asked | row]), tmp_path / f"{name}.parquet")
        sources.write_dataset(tmp_path, dataset, tmp_path / "table.parquet")
        (found,) = pq.read_table(tmp_path / "table.parquet").to_pylist()
        assert found["config"] == wanted


def test_components_that_are_kept_are_those_that_are_used(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    kept = tmp_path / "components.npz"
    first = _kept_components(rows, kept)
    np.savez(kept, components=-first)  # as another linear algebra library may have them
    assert np.array_equal(_kept_components(rows, kept), -first)
    assert np.array_equal(_kept_components(rows, None), first)


def test_made_up_prompts_are_new_and_know_their_families() -> None:
    prompts = ["name the capital of peru please", "solve for x: 2x = 4", "say yes"]
    family = np.array([FAMILIES.index(name) for name in ("chat", "exam", "own prompts")])
    words = ["alpha", "beta", "gamma"]
    corpus = make_corpus(prompts, family, words, Sizes(0, swapped=400, spliced=400, of_all=0.5))
    assert len(set(corpus.texts)) == len(corpus.texts) > 100
    assert not set(prompts) & set(corpus.texts)
    assert corpus.families.any(axis=1).all()
    assert any("capital" in text and "alpha" in text for text in corpus.texts)
    drawn = make_corpus(prompts, family, words, Sizes(2, swapped=0, spliced=0))
    assert len(drawn.texts) > 900
    assert not drawn.without(["own instructions"]).any()
    for name, marks in (("chat", {"capital", "peru"}), ("exam", {"solve", "2x"})):
        kept = [t for t, k in zip(corpus.texts, corpus.without([name]), strict=True) if k]
        assert kept
        assert not any(marks & set(text.split()) for text in kept)
    same = make_corpus(prompts, family, words, Sizes(0, swapped=400, spliced=400, of_all=0.5))
    assert same.texts == corpus.texts
    vocabulary = {"from": 5, "##ingly": 6, "the": 4, "with": 2, "a": 8, "caf\u00e9s": 9, "x1zz": 10}
    assert whole_words(vocabulary) == ["with", "the", "from"]


def test_the_instructions_are_written_as_collect_reads_them(tmp_path: Path) -> None:
    assert prompts.main([str(tmp_path / "instructions.jsonl")]) == 0
    found = read_prompts(tmp_path / "instructions.jsonl")
    assert len(found) == 1997
    assert {each.columns["dataset"] for each in found} == {"pars-instructions"}


def test_the_instructions_are_those_that_were_measured() -> None:
    rows = pq.read_table(LENGTHS).to_pylist()
    assert {row["prompt"] for row in rows} == {row["prompt"] for row in generate()}
    assert len(rows) == len({row["prompt"] for row in rows}) == 1997
    assert len({row["template"] for row in rows}) == 814
    assert len({row["kind"] for row in rows}) == 24


def test_the_experiment_writes_the_folder_that_ships(
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = {name: VARIANTS[name] for name in (SHIPPED, "its teacher", RIDGE)}
    monkeypatch.setattr(default_predictor, "VARIANTS", few)
    monkeypatch.setattr(default_predictor, "Recipe", small)
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
    assert "| arena_hard_v2 | 2 | 80 |" in card, "other data sets too"
    assert "| chat | 1 | 80 |" in card, "what the intervals cover"
    numbers = json.loads((tmp_path / "out" / "default-predictor" / "card.json").read_text())
    assert [cell["dataset"] for cell in numbers["unseen"]] == ["arena_hard_v2"]
    assert set(numbers["left_out_coverage"]) == {
        *("chat", "exam", "code reading"),
        *("own prompts", "own instructions"),
    }
    assert set(numbers["coverage"]) == {"arena_hard_v2"}
    # As if that one had shipped: built again with nothing kept, it is the same.
    shipped = tmp_path / "shipped"
    (tmp_path / "out" / "default-predictor").rename(shipped)
    monkeypatch.setattr(default_predictor, "DEFAULT_PREDICTOR", shipped)
    again = Workbench("default-predictor", data_root, tmp_path / "again")
    found = default_predictor.run(again).markdown(again.minutes)
    assert re.search(
        r"of other data sets, scored by both folders: (\S+) shipped, \1 rebuilt \(within 0.01\)",
        found,
    )
    # As if another had shipped: its weights are asked, whatever its card says.
    turned_round(shipped)
    bench = Workbench("default-predictor", data_root, tmp_path / "out")
    with pytest.raises(PredictorError, match=r"NOT within 0.01\). The folder is written"):
        default_predictor.run(bench)
    assert Predictor.load(tmp_path / "out" / "default-predictor").manifest == predictor.manifest
    assert "| arena_hard_v2 | 2 | 80 |" in capsys.readouterr().out


def test_a_default_predictor_is_compared_on_all_prompts_of_its_table(
    data_root: Path, tmp_path: Path
) -> None:
    write_listed(data_root, tmp_path / "listed.parquet", check=False)
    material = Material(read_lengths(tmp_path / "listed.parquet"), small())
    fitted = material.linear()
    out, calibration = tmp_path / "default", calibrate(material, fitted.scores)
    wrong = replace(fitted, scores=-fitted.scores)
    with pytest.raises(PredictorError, match=r"The student engine's scores differ .* allowed"):
        write_default(out, material, wrong, calibration, {}, ("card", "{}"))
    assert not out.exists()
    manifest = write_default(out, material, fitted, calibration, {}, ("card", "{}"))
    parity: Any = manifest.engines["student"]["parity"]
    assert (parity["prompts"], parity["odd"]) == (len(material.table.prompts), 0)
    assert parity["tau"] >= parity["tau_bound"] == 0.99
    assert parity["batch_diff"] <= parity["batch_bound"]


def turned_round(folder: Path) -> None:
    """Let a predictor rank backwards, and leave its card as it is."""
    manifest = read_manifest(folder)
    arrays = read_arrays(folder / "student.safetensors")
    arrays |= {name: -floats(arrays, name) for name in ("out", "out_bias")}
    kept = {name: (folder / name).read_bytes() for name in manifest.files}
    write_predictor(folder, manifest, kept | {"student.safetensors": arrays_bytes(arrays)})


def cell(dataset: str, ours: float, ridge: float, length: float) -> dict[str, Any]:
    """As `judge` tells, every interval .02 wide."""

    def around(value: float) -> list[float]:
        return [value, value - 0.01, value + 0.01]

    rivals = {RIDGE: ridge, LENGTH: length, OWNLESS: ours - 0.02}
    return {
        "dataset": dataset,
        "prompts": 100,
        "llms": 1,
        "tau": {name: around(tau) for name, tau in {OURS: ours, **rivals}.items()},
        "gain": {name: around(ours - tau) for name, tau in rivals.items()},
        "by_llm": {"gpt|4": around(ours)},
    }


def test_the_card_tells_failures_on_other_data_sets_too() -> None:
    counts: dict[str, dict[str, object]] = {source.dataset: {"rows": 1} for source in LISTED}
    left_out = [cell("seen", 0.3, 0.2, 0.1)]
    unseen = [cell("code", 0.2, 0.3, 0.1), cell("sums", 0.0, 0.0, 0.2), cell("chat", 0.3, 0.2, 0.1)]
    covered = {"chat": {"llms": 1, "prompts": 9, **{n: [0.5, 0.4, 0.6] for n in PERCENT}}}
    text = render(Findings(counts, left_out, unseen, covered, covered))
    assert "No better than chance (the interval of tau reaches 0): sums." in text
    assert "Worse than prompt length, beyond the interval: sums." in text
    assert "Worse than the n-gram ridge, beyond the interval: code." in text
    assert "On the mean of the prompts" not in text
    assert "the same recipe reaches 0.147" in text
    assert "they help beyond the interval on 3 and harm beyond it on 0." in text
    worse = render(Findings(counts, left_out, unseen[:2], {}, {}))
    assert "prompts of other data sets, n-gram ridge is better: 0.150 against 0.100." in worse
    assert "| code | gpt\\|4 | 0.200 [0.190, 0.210] |" in text
    assert text.count("| chat | 1 | 9 | 0.500 [0.400, 0.600] |") == 2
    assert "| mean of 1 families | | | 0.500 | 0.500 | 0.500 |" in text
    alone = render(Findings(counts, left_out, [], {}, {}))
    assert "Other data sets" not in alone
    assert "none of the data sets here" in alone


def test_a_typical_llm_is_found_whatever_an_llm_answered() -> None:
    rng = np.random.default_rng(0)
    truth = rng.lognormal(5, 1, 300)
    factors = np.array([0.25, 1.0, 4.0])
    prompt, llm = (each.ravel() for each in np.meshgrid(np.arange(300), np.arange(3)))
    # The most talkative LLM has answered the prompts of short answers only.
    there = (llm < 2) | (truth[prompt] < np.median(truth))
    prompt, llm = prompt[there], llm[there]
    length = truth[prompt] * factors[llm] * rng.lognormal(0, 0.3, len(prompt))
    responses = Responses(prompt, llm, length, np.zeros(len(prompt), dtype=bool))
    found = np.log(responses.typical().length / truth[prompt])
    medians = [np.median(found[llm == each]) for each in range(3)]
    assert np.ptp(medians) < 0.15, "all on one scale"
    assert 0.2 < found.std() < 0.4, "and each as far from its prompt's as a response is"
    served = responses.served(np.full(len(prompt), 100, dtype=np.float32))
    for each in range(3):
        assert served.length[llm == each].mean() == pytest.approx(100, rel=0.25)


def test_intervals_cover_what_they_promise_when_lengths_are_as_they_were() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=2000).astype(np.float32)
    prompt = np.repeat(np.arange(2000), 2)
    length = np.exp(5 + scores[prompt] + rng.normal(0, 0.5, 4000)).round() + 1
    responses = Responses(prompt, np.tile([0, 1], 2000), length, np.zeros(4000, dtype=bool))
    calibration = Calibration.from_json(fit_calibration(scores[prompt], length))
    # Five times as many tokens from one of the LLMs change nothing.
    much = replace(responses, length=length * np.tile([1, 5], 2000))
    found: Any = coverage(calibration, scores, much, np.arange(1000))
    assert (found["prompts"], found["llms"]) == (1000, 2)
    for name, share in zip(PERCENT, (0.5, 0.8, 0.9), strict=True):
        assert found[name][0] == pytest.approx(share, abs=0.06)
        assert found[name][1] < found[name][0] < found[name][2]


def test_variants_are_compared_on_the_same_prompts(data_root: Path, tmp_path: Path) -> None:
    write_listed(data_root, tmp_path / "listed.parquet", check=False)
    table = read_lengths(tmp_path / "listed.parquet")
    kind = np.array([("list" in text) + 2 * ("story" in text) for text in table.prompts])
    good, bad = kind.astype(np.float32), -kind.astype(np.float32)
    found: Any = compare(table, table.datasets, {"good": good, "bad": bad, "same": good}, 20)
    assert found["gain"]["same"] == [0.0, 0.0, 0.0]
    assert found["gain"]["bad"][2] < 0
    each = [mean_tau(table, name, good) for name in found["datasets"]]
    assert found["taus"]["good"] == pytest.approx(each, abs=1e-4)
    assert found["tau"]["good"][0] == pytest.approx(np.mean(found["taus"]["good"]), abs=1e-4)
