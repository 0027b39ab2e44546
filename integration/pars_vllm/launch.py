"""Starts scorer processes: what the two share, the command line, the environment."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

from pars_vllm.scorer_worker import WorkerOptions


def _memory() -> IO[bytes]:
    """A file without a name: in memory, or where that cannot be in the temporary folder.

    Where neither can be, one that keeps nothing: a prompt that kills the process gets no strike.
    """
    with contextlib.suppress(AttributeError, OSError):  # no such call, or forbidden
        return os.fdopen(os.memfd_create("pars-at-work"), "r+b", buffering=0)
    with contextlib.suppress(OSError):
        return tempfile.TemporaryFile(buffering=0)
    return Path(os.devnull).open("r+b", buffering=0)


def _one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="pars-launcher")


class Launcher:
    """Starts one scorer process after another, all from one thread.

    The kernel ends a scorer process with the *thread* that started it (Linux's PR_SET_PDEATHSIG),
    and whoever calls us may be a thread that ends long before its process does.
    """

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._thread = _one_thread()
        self._memory = _memory()

    @property
    def at_work(self) -> int:
        """File descriptor of the memory in which the process notes what it has at work."""
        return self._memory.fileno()

    def start(self) -> Future[tuple[subprocess.Popen[bytes], socket.socket]]:
        """A new process and our non-blocking end of its socket, soon; OSError if there can be none.

        The error comes from here or from what is returned.
        """
        try:
            return self._thread.submit(self._spawn)
        except RuntimeError as error:  # no thread left to start it from
            self._thread = _one_thread()  # the old one keeps what it could not begin
            raise OSError(errno.EAGAIN, str(error)) from error

    def close(self) -> None:
        """End the thread, and with it a process that still runs."""
        self._thread.shutdown()
        self._memory.close()

    def _spawn(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                ours.setblocking(False)
                return self._popen(theirs.fileno()), ours
            except BaseException:
                ours.close()
                raise

    def _popen(self, connection: int) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "pars_vllm.scorer_worker",
            str(connection),
            str(self.at_work),
            str(os.getpid()),
            self._options.to_json(),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": str(self._options.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        # Not multiprocessing: the engine core is a daemonic process, which may not have children
        # of that kind.
        return subprocess.Popen(
            command,
            env=environment,
            pass_fds=[connection, self.at_work],
            stdin=subprocess.DEVNULL,
        )
