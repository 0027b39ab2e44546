"""How many cores scoring may use: what a caller may ask for."""

from __future__ import annotations

from pars_export.errors import ConfigError


def check_threads(threads: object) -> None:
    """Refuse what is no number of cores.

    Raises:
        ConfigError: it is not a whole number of at least 1.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ConfigError(f"threads is {threads!r}; it must be a whole number of at least 1.")
