"""One real ``vllm serve`` as a context manager: started, awaited, and ended with all it started.

vLLM runs its engine in processes of its own, which outlive a parent that is killed. Three nets
catch them: the context manager ends the whole process group; a watchdog process does the same when
this process disappears without having said goodbye (SIGKILL, SIGTERM, a closed terminal); and the
group is looked at again before the context manager lets go.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pars_export.errors import ParsError

# What vLLM's CPU build needs on a small machine. Two OpenMP threads on two shared cores wait for
# each other at every barrier and are several times slower than one; bound threads would all sit on
# the first cores. The KV cache is in GiB (the default takes a large share of the memory).
CPU_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}

# Reads its standard input, which only we hold open. "done" means a regular end; the end of the
# input without it means that we died: then the group is ended in our place.
_WATCHDOG = """
import os, signal, sys, time
group, grace = int(sys.argv[1]), float(sys.argv[2])
if sys.stdin.buffer.read() != b"done":
    for end, number, wait in (
        (os.kill, signal.SIGTERM, grace),
        (os.killpg, signal.SIGTERM, 2.0),
        (os.killpg, signal.SIGKILL, 0.0),
    ):
        try:
            end(group, number)
            os.killpg(group, signal.SIGCONT)
            deadline = time.monotonic() + wait
            while time.monotonic() < deadline:
                end(group, 0)
                time.sleep(0.1)
        except ProcessLookupError:
            continue
"""


class ServingError(ParsError):
    """The server did not start, died, or did not answer every request."""


@dataclass(frozen=True)
class ServerConfig:
    """How one server is started."""

    command: tuple[str, ...]
    """Program and arguments, host and port included."""
    port: int
    """TCP port on 127.0.0.1."""
    log: Path
    """File that receives the server's output."""
    start_timeout: float = 900.0
    """Seconds until ``/health`` must answer."""
    grace: float = 20.0
    """Seconds between SIGTERM and SIGKILL."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _check_port(port: int) -> None:
    # Whoever listens there already would answer in our server's place, /health first of all.
    with socket.socket() as listener:
        # As the server will: closed connections of an earlier one are no obstacle, a listener is.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServingError(
                f"port {port} of 127.0.0.1 cannot be used ({error.strerror}): end what listens "
                "there, or give another --port (0 takes a free one)"
            ) from error


def vllm_program() -> str:
    """Path of the ``vllm`` command: the one beside this Python first, then the search path's.

    Raises:
        ServingError: there is none.
    """
    beside = Path(sys.executable).parent / "vllm"
    found = str(beside) if beside.is_file() else shutil.which("vllm")
    if found is None:
        raise ServingError(
            "the command `vllm` was not found beside this Python nor on PATH: "
            "install vLLM (or vllm-cpu) into this environment"
        )
    return found


def is_cpu_build() -> bool:
    """Whether the installed vLLM is its CPU build, told by its version as vLLM itself does."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            if name == "vllm-cpu" or "cpu" in importlib.metadata.version(name):
                return True
    return False


def child_environment(base: Mapping[str, str], cpu: bool) -> dict[str, str]:
    """The server's environment: ``base``, with the CPU settings where the user has not set them.

    The level of vLLM's log is ours: that the scorer is ready, and its counters, are read off it.
    """
    return {**(CPU_ENVIRONMENT if cpu else {}), **base, "VLLM_LOGGING_LEVEL": "INFO"}


@dataclass(frozen=True)
class Server:
    """A server that was healthy."""

    url: str
    """Base URL."""
    process: subprocess.Popen[bytes]

    def check(self) -> None:
        """Raise ServingError if its process ended: whoever answers at the URL is another."""
        status = self.process.poll()
        if status is not None:
            raise ServingError(f"the server's process ended with status {status}")


@contextmanager
def running_server(config: ServerConfig) -> Iterator[Server]:
    """Start the server, wait until it is healthy, hand it over, and end it.

    Raises:
        ServingError: the port is taken, or the server ended, or it was not healthy within
            ``start_timeout``.
    """
    _check_port(config.port)
    config.log.parent.mkdir(parents=True, exist_ok=True)
    with config.log.open("wb") as log:
        process = subprocess.Popen(
            config.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=child_environment(os.environ, is_cpu_build()),
            # A group of its own: Ctrl-C reaches us alone, and we end the group in order. Not a
            # session: where autogroup is on, Linux shares the cores out by session first, and a
            # client that hardly ever runs in one of its own is kept waiting, answers unread.
            process_group=0,
        )
    watchdog: subprocess.Popen[bytes] | None = None
    try:
        watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(process.pid), str(config.grace)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{config.port}"
        _wait_until_healthy(process, url, config)
        yield Server(url, process)
    finally:
        _stop_group(process, config.grace)
        if watchdog is not None:
            with contextlib.suppress(BrokenPipeError):
                watchdog.communicate(b"done")


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, config: ServerConfig) -> None:
    deadline = time.monotonic() + config.start_timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServingError(
                f"the server ended with status {process.returncode} while it started: "
                f"{last_error(config.log)} (whole log: {config.log})"
            )
        if _state(process.pid) == "T":
            raise ServingError(
                f"the server waits for an answer from the terminal, which it does not get: "
                f"{last_error(config.log)} (whole log: {config.log})"
            )
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(f"{url}/health", timeout=5) as answer,  # noqa: S310
        ):
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise ServingError(
        f"the server was not healthy within {config.start_timeout:.0f} s: "
        f"{last_error(config.log)} (whole log: {config.log})"
    )


def last_error(log: Path) -> str:
    """The last line that a log marks as ERROR, without its prefix; else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    for line in reversed(lines):
        # vLLM writes "(EngineCore pid=7) ERROR 11-24 00:35:03 [core.py:12] sentence".
        found = re.search(r"\bERROR\b(?:\s[^\[\]]*\[[^\]]*\])?:?\s*(\S.*)", line)
        if found:
            return found[1]
    return lines[-1] if lines else "it wrote nothing"


def _stop_group(process: subprocess.Popen[bytes], grace: float) -> None:
    """Ask the leader, which ends its own in order; then ask whoever is left; then kill."""
    process.terminate()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)  # what is stopped takes no other signal
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    for number, wait in ((None, 1.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        if number is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        if _gone(process.pid, wait):
            break
    process.wait()


def _gone(group: int, wait: float) -> bool:
    deadline = time.monotonic() + wait
    while group_members(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _state(process: int) -> str:
    """Linux's letter for what a process does, T for one that is stopped; empty if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def group_members(group: int) -> list[int]:
    """Ids of the live processes (zombies are not) of a process group, by Linux's ``/proc``."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # "pid (name) state ppid pgrp ...", and the name may hold blanks and parentheses.
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(process_group) == group and state not in "ZX":
            members.append(int(stat.parent.name))
    return members
