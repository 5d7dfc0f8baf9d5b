"""A Python that has already imported torch, DALI and this project: for the many short processes of the tests.

`python warm_python.py CLIENT SOCKET` imports once, writes the program CLIENT, and forks a process for each CLIENT that
runs. CLIENT takes the place of `python`: with `-m`, `-c` or a script, its arguments,
folder, environment, standard streams, signals and exit status. Only what is new in a process is not as in a new one:
the imports, and clean-up at exit. In no process has DALI, a thread of torch or matplotlib run before.
"""

import importlib
import json
import os
import runpy
import socket
import sys
import traceback
from pathlib import Path

IMPORTED = (
    "train.__main__",  # before torch, for it sets a variable that is read then
    "torch.utils.tensorboard",
    "torchvision",
    "nvidia.dali.auto_aug.augmentations",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "scipy.stats",
    "train.programs.train",
    "train.analysis.agreement",
)
SIZE = 8  # bytes of a number in messages

CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
passed_on = (signal.SIGINT, signal.SIGTERM)
signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
server = socket.socket(socket.AF_UNIX)
server.connect({place!r})
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(request).to_bytes({size}, "big")], [0, 1, 2])
server.sendall(request)
child = int.from_bytes(server.recv({size}), "big")
for number in passed_on:
    signal.signal(number, lambda number, _: os.kill(child, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
status = int.from_bytes(server.recv({size}), "big", signed=True)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if status != -signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def execute(arguments: list[str]) -> None:
    """Do what Python does with its arguments."""
    if arguments[0] == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(arguments[0]).parent.absolute()))
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def child(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    """Run the arguments with these streams, and end with Python's exit status."""
    import torch

    status = 0
    try:
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
            os.close(stream)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", "1")))
        execute(arguments)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    try:
        sys.stdout.flush()
    finally:
        os._exit(status & 255)


def attend(connection: socket.socket) -> None:
    """Start a client's process, and report its number and then its status."""
    size, streams, *_ = socket.recv_fds(connection, SIZE, 3)
    with connection.makefile("rb") as file:
        request = json.loads(file.read(int.from_bytes(size, "big")))
    number = os.fork()
    if number == 0:
        connection.close()
        child(*request, streams)
    for stream in streams:
        os.close(stream)
    connection.sendall(number.to_bytes(SIZE, "big"))
    status = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    connection.sendall(status.to_bytes(SIZE, "big", signed=True))


def reap() -> None:
    """Forget the processes that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def serve(client: Path, place: str) -> None:
    del sys.path[0]  # this folder, whose `train` is not the package
    for name in IMPORTED:
        importlib.import_module(name)
    client.write_text(CLIENT.format(python=sys.executable, place=place, size=SIZE))
    client.chmod(0o755)
    sys.executable = str(client)  # for the processes that processes start
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen(16)
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                attend(connection)
                os._exit(0)
            connection.close()
            reap()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
