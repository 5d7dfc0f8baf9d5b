"""This side of a peer's process: start it, ask it, end it."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import train

ROOT = Path(train.__file__).parent.parent
LIMIT = 600.0  # seconds that an answer may take
GRACE = 10.0


class PeerError(Exception):
    """A peer raised an error, or cannot be asked.

    Attributes:
        how: "error", "not offered", "crash" or "hang".
        text: the traceback, where there is one.
    """

    def __init__(self, how: str, message: str, text: str = "") -> None:
        super().__init__(message)
        self.how, self.text = how, text or message


class Peer:
    """A running process of a peer.

    Args:
        name: of `NAMES`.
        python: its interpreter.
        log: file to which its errors are appended.
    """

    def __init__(self, name: str, python: str, log: Path) -> None:
        self.name, self.log = name, log
        # Libraries write to the folder for temporary files, and some empty what others have there.
        scratch = log.parent / "tmp"
        scratch.mkdir(exist_ok=True)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        with open(log, "a") as errors:
            self.process = subprocess.Popen(
                [python, "-m", f"{__package__}.worker", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "TMPDIR": str(scratch)},
                start_new_session=True,  # so that its own processes can be ended with it
            )
        self.answers = b""

    def ask(self, what: str, seconds: float = LIMIT, **arguments: Any) -> Any:
        """Return the answer to a command, see `worker.Session`.

        Raises:
            PeerError: there was an error, or no answer within `seconds`; the process then has ended.
        """
        self.begin(what, **arguments)
        return self.answer(seconds)

    def begin(self, what: str, **arguments: Any) -> None:
        """Send a command."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended, as `answer` finds

    def answer(self, seconds: float = LIMIT) -> Any:
        """Wait for the answer to the command sent."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self.answers:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                self.kill()
                raise PeerError("hang", f"no answer in {seconds:.0f} s")
            if not (piece := os.read(self.process.stdout.fileno(), 1 << 16)):
                self.process.wait()
                code = self.process.returncode
                how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
                self.kill()
                raise PeerError("crash", f"the process ended: {how}")
            self.answers += piece
        line, _, self.answers = self.answers.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            how = "error" if answer["offered"] else "not offered"
            raise PeerError(how, answer["error"], answer.get("trace", ""))
        return answer["value"]

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        """End the process and its own by SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # a command that it did not read
                    pipe.close()

    def close(self) -> None:
        """End the process: by the end of its input, and by SIGKILL if that does not end it."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            try:
                self.process.stdin.close()
                self.process.wait(GRACE)
            except (OSError, subprocess.TimeoutExpired):
                pass
        self.kill()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
