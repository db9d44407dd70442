"""A Python that starts in no time: its processes are forked from one that has imported torch.

Most of what a run of the command or of pytest costs here is importing torch, transformers, PEFT
and mergekit. A server imports them once for all workers of pytest-xdist. Each ``python``,
``pytest`` or ``mergegate`` in ``commands()`` is a small program that has a fork of the server do
its work: a process of its own, with its arguments, files, working directory and environment. This
package is imported afresh in it. Under options and variables that the server was not started with,
and that a fork could not make good, it is a new interpreter instead.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn

FOLDER = "MERGEGATE_TEST_WARM"
"""Names the folder of the server's socket, for all workers of a run."""
HEAVY = (
    *("numpy", "scipy.stats", "scipy.optimize", "numba", "yaml", "pydantic", "rich.console"),
    *("torch", "torch._dynamo", "transformers", "transformers.models.llama.modeling_llama"),
    *("peft", "accelerate", "mergekit.merge", "mergekit.options", "safetensors.torch", "filelock"),
    *("jinja2", "plotly.graph_objects"),
)
SETTINGS = ("HF_", "OMP_", "MKL_", "NUMBA_", "TORCH", "TRANSFORMERS_", "TOKENIZERS_", "KMP_")
"""Beginnings of variables that libraries read when they are imported."""
PROGRAMS = {
    "python": [],
    "pytest": ["-m", "pytest"],
    "mergegate": ["-c", "import sys; from pytest_mergegate.cli import main; sys.exit(main())"],
}
CLIENT = """#!{python} -ISE
import os, sys
PROGRAM, REAL, SETTINGS, WANTED = {program!r}, {python!r}, {settings!r}, {wanted!r}
arguments = [*PROGRAM, *sys.argv[1:]]
def options():
    for argument in arguments:
        if argument in ("-c", "-m") or not argument.startswith("-"):
            return True
        if argument not in ("-u", "-P", "-B", "-W", "ignore"):
            return False
    return False
given = {{k: v for k, v in os.environ.items() if k.startswith(SETTINGS)}}
if not options() or given != WANTED or os.environ.get("PYTHONHASHSEED", "0") != "0":
    os.execv(REAL, [REAL, *arguments])
import json, signal, socket
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    try:
        here = os.getcwd()
    except FileNotFoundError:
        os.execv(REAL, [REAL, *arguments])
    asked = {{"arguments": arguments, "cwd": here, "env": dict(os.environ), "umask": os.umask(0)}}
    socket.send_fds(server, [b"?"], [0, 1, 2])
    server.sendall(json.dumps(asked).encode() + b"\\n")
    code = int(server.recv(16) or b"-9")
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code not in (9, 19) else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def commands() -> Path:
    """The folder of ``python``, ``pytest`` and ``mergegate``; the server is started by the first
    that asks for it, and ends with the process that began the tests."""
    from filelock import FileLock

    folder = Path(os.environ[FOLDER])
    with FileLock(folder / "lock"):
        if not (folder / "bin").exists():
            _start(folder)
    return folder / "bin"


def _start(folder: Path) -> None:
    address = str(folder / "socket")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHONPATH"))}
    server = subprocess.Popen(
        [sys.executable, "-P", __file__, address, os.environ[f"{FOLDER}_OWNER"]],
        env=kept | {"PYTHONHASHSEED": "0"},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    made = folder / "made"
    made.mkdir()
    wanted = {k: v for k, v in os.environ.items() if k.startswith(SETTINGS)}
    for name, program in PROGRAMS.items():
        file = made / name
        file.write_text(
            CLIENT.format(
                python=sys.executable,
                program=program,
                settings=SETTINGS,
                wanted=wanted,
                address=address,
            ),
            encoding="utf-8",
        )
        file.chmod(0o755)
    made.rename(folder / "bin")


# The server


def serve(address: str, owner: int) -> None:
    """Import, and fork for whoever asks, as long as ``owner`` lives."""
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            __import__(name)
    _spare_pytest_plugins()
    path = [*sys.path]
    assert threading.active_count() == 1, "a fork has none of the threads"
    gc.collect()
    gc.freeze()
    children: dict[int, socket.socket] = {}
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    os.write(1, b"ready\n")
    while _alive(owner):
        ready, _, _ = select.select([listening, woken, *children.values()], [], [], 1.0)
        with contextlib.suppress(BlockingIOError):
            woken.recv(4096)
        _reap(children)
        for pid, client in [*children.items()]:
            # what it asks is read by the child; after that it says nothing until it ends
            if client in ready and _has_ended(client):
                os.kill(pid, signal.SIGKILL)
        if listening in ready:
            client, _ = listening.accept()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                listening.close()
                _child(client, [*children.values(), woken, wake], path)
            children[pid] = client
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _spare_pytest_plugins() -> None:
    """pytest warns of plugins that were imported before it could rewrite what they assert."""
    for entry in entry_points(group="pytest11"):
        if module := sys.modules.get(entry.module.partition(".")[0]):
            module.__doc__ = f"{module.__doc__}\nPYTEST_DONT_REWRITE"


def _alive(owner: int) -> bool:
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return False
    return True


def _has_ended(client: socket.socket) -> bool:
    try:
        return not client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:  # the child was faster
        return False
    except ConnectionResetError:
        return True


def _reap(children: dict[int, socket.socket]) -> None:
    for pid in [*children]:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            client = children.pop(pid)
            with contextlib.suppress(OSError):
                client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            client.close()


def _child(client: socket.socket, others: list[socket.socket], path: list[str]) -> NoReturn:
    code = 1
    os.setpgid(0, 0)  # what ends this process with its group spares the server
    try:
        for other in others:
            other.close()
        _, files, _, _ = socket.recv_fds(client, 1, 3)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        with client.makefile("rb") as reader:
            asked = json.loads(reader.readline())
        client.detach()  # stays open: the server has its own
        code = _run(asked, path)
    finally:
        os._exit(code)


def _run(asked: dict[str, Any], path: list[str]) -> int:
    """As an interpreter would run ``asked``; its exit code."""
    for number in (signal.SIGCHLD, signal.SIGINT):
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)
    os.chdir(asked["cwd"])
    os.umask(asked["umask"])
    os.environ.clear()
    os.environ.update(asked["env"])
    options, kind, rest = _parse(asked["arguments"])
    _open_files(unbuffered="-u" in options)
    own = os.environ.get("PYTHONPATH", "")
    sys.path[:] = [*(str(Path(p).absolute()) for p in own.split(os.pathsep) if own), *path]
    if "-P" not in options and not os.environ.get("PYTHONSAFEPATH"):
        first = {"-c": "", "-m": asked["cwd"], "": str(Path(rest[0]).resolve().parent)}[kind]
        sys.path.insert(0, first)
    sys.argv = ["-c", *rest[1:]] if kind == "-c" else rest
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    code = 0
    try:
        if kind == "-c":
            exec(rest[0], main.__dict__)
        elif kind == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            main.__dict__["__file__"] = rest[0]
            exec(compile(Path(rest[0]).read_bytes(), rest[0], "exec"), main.__dict__)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        if left.code is not None and not isinstance(left.code, int):
            sys.stderr.write(f"{left.code}\n")
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for file in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            file.flush()
    return code & 0xFF


def _parse(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """Options, ``-c``, ``-m`` or nothing, and what follows."""
    for k, argument in enumerate(arguments):
        if argument in {"-c", "-m"}:
            return arguments[:k], argument, arguments[k + 1 :]
        if not argument.startswith("-") and argument != "ignore":
            return arguments[:k], "", arguments[k:]
    raise AssertionError(arguments)


def _open_files(*, unbuffered: bool) -> None:
    reader = io.FileIO(0, closefd=False)
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(reader), encoding="utf-8")
    for number, name in ((1, "stdout"), (2, "stderr")):
        writer = io.FileIO(number, "wb", closefd=False)
        file = io.TextIOWrapper(
            writer if unbuffered else io.BufferedWriter(writer),
            encoding="utf-8",
            errors="strict" if number == 1 else "backslashreplace",
            line_buffering=number == 2 or os.isatty(number),
            write_through=unbuffered,
        )
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
