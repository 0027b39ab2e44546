"""Which vLLM versions the scheduler was tested with, and the sentence for every other one.

vLLM's scheduler interface is not public and changes with minor releases, so a version is
supported only where the contract tests have run against it.
"""

from __future__ import annotations

import math
import re

from pars_export.errors import ConfigError

SUPPORTED: tuple[str, ...] = ("0.28", "0.29", "0.30", "0.31", "0.32", "0.33")
"""Minor releases, oldest first; ``docs/results/versions.md`` says what was tested on each."""


def is_supported(version: str) -> bool:
    """Whether the minor release of this vLLM version was tested."""
    return any(_numbers(version) == _numbers(minor) for minor in SUPPORTED)


def is_before(version: str, minor: str) -> bool:
    """Whether a vLLM version is older than a minor release; one without numbers counts as newer."""
    return _numbers(version) < _numbers(minor)


def _numbers(version: str) -> tuple[float, ...]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (math.inf,)


def check_version(version: str, allow_unsupported: bool) -> None:
    """Raise ConfigError for an untested vLLM version unless the operator allows it."""
    if not is_supported(version) and not allow_unsupported:
        raise ConfigError(
            f"vLLM {version} is not supported by this version of PARS, which was tested with vLLM "
            f"{', '.join(SUPPORTED)}: install one of these, or set "
            f"additional_config['pars']['allow_unsupported_vllm'] to true at your own risk."
        )
