from __future__ import annotations

import subprocess
import sys

import pytest

from pars_export.errors import ConfigError
from pars_vllm.settings import Settings
from pars_vllm.versions import SUPPORTED, check_version, is_supported


def test_defaults_and_conversion() -> None:
    settings = Settings.parse({"pars": {"predictor": "here", "patience": 5, "cpus": [1, 2]}})
    assert settings.ranking == "on"
    assert settings.patience == 5.0
    assert isinstance(settings.patience, float)
    assert settings.cpus == (1, 2)


def test_off_needs_no_predictor() -> None:
    assert Settings.parse({"pars": {"ranking": "off"}}).predictor is None


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"predictor": ""}, "is empty: name a predictor folder"),
        ({"predictr": "x"}, "unknown key 'predictr'; did you mean 'predictor'?"),
        ({"zzz": 1}, "known keys: predictor, predictor_sha256"),
        ({"predictor": 3}, "['predictor'] must be a string, not 3"),
        ({"predictor": "x", "ranking": "yes"}, "must be one of on, shadow, off, not 'yes'"),
        ({"predictor": "x", "patience": "5"}, "must be a number, not '5'"),
        ({"predictor": "x", "patience": float("nan")}, "must be from 0 to 1e+09, not nan"),
        ({"predictor": "x", "share": 1.5}, "must be from 0 to 1, not 1.5"),
        ({"predictor": "x", "threads": True}, "must be an integer, not True"),
        ({"predictor": "x", "threads": 0}, "must be from 1 to 1024, not 0"),
        ({"predictor": "x", "threads": 10**400}, "must be from 1 to 1024, not inf"),
        ({"predictor": "x", "patience": -(10**400)}, "must be from 0 to 1e+09, not -inf"),
        ({"predictor": "x", "trust_priority": 1}, "must be true or false, not 1"),
        ({"predictor": "x", "cpus": [1.5]}, "must be a list of integers"),
        ({"predictor": "x", "cpus": [-1]}, "negative CPU"),
        (["predictor"], "must be an object of settings, not list"),
    ],
)
def test_refusals_are_one_sentence(section: object, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.parse({"pars": section})
    text = str(caught.value)
    assert sentence in text
    assert "\n" not in text


def test_versions() -> None:
    assert is_supported(f"{SUPPORTED[-1]}.7+cpu")
    check_version(f"{SUPPORTED[-1]}.0", allow_unsupported=False)
    check_version("0.8.5", allow_unsupported=True)
    for wrong in ("0.8.5", "dev", "3.2.0"):
        with pytest.raises(ConfigError, match="is not supported by this version of PARS"):
            check_version(wrong, allow_unsupported=False)


def test_importing_the_package_imports_neither_vllm_nor_torch() -> None:
    code = (
        "import sys, pars_vllm, pars_vllm.settings, pars_vllm.policy, pars_vllm.order, "
        "pars_vllm.scorer, pars_vllm.scorer_worker, pars_vllm.doctor\n"
        "heavy = {'vllm', 'torch', 'lightning', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
