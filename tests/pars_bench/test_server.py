"""Starting, awaiting and ending a server: a stand-in for vLLM with a real process tree."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pars_bench import server
from pars_bench.server import (
    ServerConfig,
    ServingError,
    child_environment,
    free_port,
    group_members,
    last_error,
    running_server,
)

STANDIN = Path(__file__).parent / "standin_vllm.py"

# Ignores SIGTERM, and so does its child: only SIGKILL ends them.
STUBBORN = """
import http.server, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
print("stand-in: child", child.pid, flush=True)
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


def standin(folder: Path, start_timeout: float = 60.0) -> ServerConfig:
    port = free_port()
    command = (sys.executable, str(STANDIN), "serve", "m", "--port", str(port))
    return ServerConfig(
        (*command, "--max-num-seqs", "4"), port, folder / "log", start_timeout, grace=5.0
    )


def child_of(log: Path) -> int:
    found = re.search(r"child (\d+)", log.read_text())
    assert found is not None
    return int(found[1])


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def until(condition: Callable[[], bool], limit: float = 30.0) -> bool:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_server_is_healthy_inside_and_gone_with_its_children_after(tmp_path: Path) -> None:
    config = standin(tmp_path)
    with running_server(config) as running:
        running.check()
        with urllib.request.urlopen(f"{running.url}/health") as answer:
            assert answer.status == 200
        child = child_of(config.log)
        assert alive(child)
        group = os.getpgid(child)
        assert child in group_members(group)
    assert not alive(child)
    assert group_members(group) == []


def test_a_server_has_a_group_of_its_own_in_the_clients_session(tmp_path: Path) -> None:
    with running_server(standin(tmp_path)) as running:
        assert os.getpgid(running.process.pid) == running.process.pid != os.getpgid(0)
        assert os.getsid(running.process.pid) == os.getsid(0)


def test_a_server_that_waits_for_the_terminal_is_not_waited_for(tmp_path: Path) -> None:
    stop = "import os, signal; print('password:', flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    command = (sys.executable, "-c", stop)
    config = ServerConfig(command=command, port=free_port(), log=tmp_path / "server.log")
    sentence = r"waits for an answer from the terminal.*password:"
    with pytest.raises(ServingError, match=sentence), running_server(config):
        pass


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_it_is_gone_after_an_error_or_ctrl_c(tmp_path: Path, error: type[BaseException]) -> None:
    config = standin(tmp_path)

    def fail() -> None:
        with running_server(config):
            assert alive(child_of(config.log))
            raise error

    with pytest.raises(error):
        fail()
    assert not alive(child_of(config.log))


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    port = free_port()
    config = ServerConfig(
        (sys.executable, "-c", STUBBORN, str(port)), port, tmp_path / "log", 60.0, grace=0.5
    )
    with running_server(config):
        child = child_of(config.log)
    assert not alive(child)


def test_a_server_outlives_its_leader_no_longer_than_the_context(tmp_path: Path) -> None:
    config = standin(tmp_path)
    with running_server(config) as running:
        child = child_of(config.log)
        group = os.getpgid(child)
        os.kill(group, signal.SIGKILL)  # the leader alone, as the kernel does out of memory
        assert alive(child)
        assert until(lambda: running.process.poll() is not None)
        with pytest.raises(ServingError, match="the server's process ended with status -9"):
            running.check()
    assert not alive(child)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_is_orphaned_when_we_are_killed(tmp_path: Path, number: int) -> None:
    config = standin(tmp_path)
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from pars_bench.server import ServerConfig, running_server
        config = ServerConfig({config.command!r}, {config.port}, Path({str(config.log)!r}), 60, 2)
        with running_server(config):
            print("ready", flush=True)
            time.sleep(600)
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    child = child_of(config.log)
    group = os.getpgid(child)
    os.kill(parent.pid, number)
    parent.wait()
    parent.stdout.close()
    assert until(lambda: not group_members(group)), group_members(group)
    assert not alive(child)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_another_server_has_is_refused_before_ours_starts(
    tmp_path: Path, address: str
) -> None:
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        foreign.bind((address, 0))
        foreign.listen()
        port = foreign.getsockname()[1]
        config = replace(standin(tmp_path), port=port)
        with (
            pytest.raises(ServingError, match=rf"port {port} of 127.0.0.1 .*: end what listens"),
            running_server(config),
        ):
            pytest.fail("the other one's answers are not ours")
    assert not config.log.exists()


def test_a_port_can_be_used_again_at_once(tmp_path: Path) -> None:
    config = standin(tmp_path)
    for _ in range(2):
        with (
            running_server(config) as running,
            urllib.request.urlopen(f"{running.url}/health") as answer,
        ):
            assert answer.status == 200


def test_a_server_that_dies_at_start_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_ERROR", "predictor.json is damaged: export again")
    config = standin(tmp_path)
    with (
        pytest.raises(
            ServingError, match=r"status 1.*: predictor.json is damaged: export again \("
        ),
        running_server(config),
    ):
        pytest.fail("it must not be healthy")
    assert not alive(child_of(config.log))


def test_a_server_that_never_gets_healthy_is_given_up_and_ended(tmp_path: Path) -> None:
    sleeper = (sys.executable, "-c", "import time; print('busy', flush=True); time.sleep(600)")
    config = ServerConfig(sleeper, free_port(), tmp_path / "log", start_timeout=4.0, grace=5.0)
    with (
        pytest.raises(ServingError, match="not healthy within 4 s: busy"),
        running_server(config),
    ):
        pytest.fail("it must not be healthy")


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("ERROR 11-24 00:35 [a.py:7] first\n(A pid=1) ERROR 11-24 [b.py:8] last\nx\n", "last"),
        ("INFO 11-24 00:35:03 [a.py:7] fine\nRuntimeError: broken\n\n", "RuntimeError: broken"),
        ("ERROR: plain\n", "plain"),
        ("", "it wrote nothing"),
    ],
)  # fmt: skip
def test_last_error(tmp_path: Path, log: str, line: str) -> None:
    (tmp_path / "log").write_text(log)
    assert last_error(tmp_path / "log") == line


def test_cpu_settings_yield_to_the_users() -> None:
    base = {"OMP_NUM_THREADS": "7", "HOME": "/h"}
    found = child_environment(base, cpu=True)
    assert found["OMP_NUM_THREADS"] == "7"
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert child_environment(base, cpu=False) == {**base, "VLLM_LOGGING_LEVEL": "INFO"}


def test_a_quiet_shell_does_not_hide_the_lines_that_are_read_off_the_log() -> None:
    found = child_environment({"VLLM_LOGGING_LEVEL": "ERROR"}, cpu=False)
    assert found["VLLM_LOGGING_LEVEL"] == "INFO"


def test_a_missing_vllm_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServingError, match="`vllm` was not found"):
        server.vllm_program()
