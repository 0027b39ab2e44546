"""What a stored run depends on beside its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from pars_bench import provenance


def test_the_digest_of_a_package_is_its_python_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "made_up_package"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('it must not be imported')")
    (folder / "deep" / "a.py").write_text("a = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = provenance.sources_digest("made_up_package")
    (folder / "deep" / "a.pyc").write_text("leftover")
    assert provenance.sources_digest("made_up_package") == before
    (folder / "deep" / "a.py").write_text("a = 2")
    assert provenance.sources_digest("made_up_package") != before
    without = provenance.sources_digest("made_up_package", without=("deep",))
    (folder / "deep" / "a.py").write_text("a = 3")
    assert provenance.sources_digest("made_up_package", without=("deep",)) == without
    with pytest.raises(ModuleNotFoundError, match="no_such_package is not installed"):
        provenance.sources_digest("no_such_package")


def test_only_variables_that_change_the_speed_are_kept() -> None:
    environment = {"VLLM_CPU_X": "1", "OMP_NUM_THREADS": "2", "HOME": "/h", "OMP_OTHER": "3"}
    found = provenance.provenance(environment)["environment"]
    assert found == {"OMP_NUM_THREADS": "2", "VLLM_CPU_X": "1"}
