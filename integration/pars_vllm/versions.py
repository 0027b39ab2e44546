"""Which vLLM versions the scheduler was tested with, and the sentence for every other one.

vLLM's scheduler interface is not public and changes with minor releases, so a version is
supported only where the contract tests have run against it.
"""

from __future__ import annotations

import re

from pars_export.errors import ConfigError

SUPPORTED: tuple[str, ...] = ("0.32",)
"""Minor releases, oldest first."""


def minor_of(version: str) -> str:
    """``"0.32"`` of ``"0.32.0+cpu"``; the whole text where it does not start with two numbers."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return f"{found[1]}.{found[2]}" if found else version


def is_supported(version: str) -> bool:
    """Whether this vLLM version was tested."""
    return minor_of(version) in SUPPORTED


def check_version(version: str, allow_unsupported: bool) -> None:
    """Raise ConfigError for an untested vLLM version unless the operator allows it."""
    if not is_supported(version) and not allow_unsupported:
        raise ConfigError(
            f"vLLM {version} is not supported by this version of PARS, which was tested with vLLM "
            f"{', '.join(SUPPORTED)}: install one of these, or set "
            f"additional_config['pars']['allow_unsupported_vllm'] to true at your own risk."
        )
