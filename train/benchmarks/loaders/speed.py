"""Images per second, and how a training step slows beside a loader: interleaved turns of all peers."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from statistics import median
from typing import Any

from train.benchmarks.loaders.job import Job
from train.benchmarks.loaders.processes import Peer, PeerError

WORK = {"clean": False, "clean + RandAugment": True}


class Turns:
    """The peers' processes, each with an open loader; one that fails is closed, and its error kept in `failed`."""

    def __init__(self, starts: Mapping[str, Callable[[], Peer]], jobs: Mapping[str, Job]) -> None:
        self.failed: dict[str, str] = {}
        self.peers: dict[str, Peer] = {}
        self.stack = ExitStack()
        for name, start in starts.items():
            peer = self.peers[name] = start()
            self.stack.callback(peer.close)
            self.ask(name, "open", job=jobs[name].to_json())

    def ask(self, name: str, what: str, **arguments: Any) -> Any:
        """Return the answer of a peer, or None, if it has failed."""
        if name in self.failed:
            return None
        try:
            return self.peers[name].ask(what, **arguments)
        except PeerError as error:
            self.failed[name] = f"{error.how}: {error}"[:300]
            self.peers[name].kill()
            return None

    def __enter__(self) -> "Turns":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stack.close()


def speeds(turns: Turns, repeats: int, skip: int, batches: int, tick: Callable[[], object]) -> dict[str, list[float]]:
    """Return images/s of each peer in each turn; one more turn, the first, warms up and is not counted."""
    runs: dict[str, list[float]] = {name: [] for name in turns.peers}
    for turn in range(repeats + 1):
        for name in runs:
            speed = turns.ask(name, "speed", skip=skip, batches=batches)
            if turn and speed is not None:
                runs[name].append(speed)
            turns.ask(name, "rest")
            tick()
    return {name: values for name, values in runs.items() if name not in turns.failed}


def neighbours(
    turns: Turns, repeats: int, skip: int, batches: int, side: int, tick: Callable[[], object]
) -> dict[str, dict[str, list[float]]]:
    """Return of each peer, in each turn: "slower", the median step beside the loader at work over that beside it idle;
    "step", its seconds idle; "images/s" of the loop of batch and step."""
    found: dict[str, dict[str, list[float]]] = {n: {"slower": [], "step": [], "images/s": []} for n in turns.peers}
    for turn in range(repeats + 1):
        for name, values in found.items():
            alone = turns.ask(name, "alone", steps=batches, side=side)
            beside = turns.ask(name, "neighbour", skip=skip, batches=batches, side=side)
            turns.ask(name, "rest")
            if turn and beside is not None:
                values["step"].append(median(alone))
                values["slower"].append(median(beside["steps"]) / median(alone))
                values["images/s"].append(beside["images/s"])
            tick()
    return {name: values for name, values in found.items() if name not in turns.failed}
