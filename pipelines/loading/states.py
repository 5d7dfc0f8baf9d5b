"""What a loader's state must be to be restored."""

from typing import Any

from ..arguments import refuse, require, shown


def check_form(state: object) -> None:
    """Raise ValueError where it is not what `ImageLoader.state_dict` returns, as far as its form shows."""
    legal = "what state_dict() of a loader returned"
    if not isinstance(state, dict):
        refuse("state", state, legal)
    for key in ("epoch", "batch", "image_size", "indices", "bad_files", "configuration"):
        require("state", state, f"{legal}, with '{key}'", key in state)
    configuration = state["configuration"]
    is_mapping = isinstance(configuration, dict) and all(isinstance(key, str) for key in configuration)
    require("configuration of the state", configuration, "a dictionary", is_mapping)
    require("configuration of the state", configuration, "one with 'image_size'", "image_size" in configuration)


def check_same_loader(given: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise ValueError where the configuration in a state is not that of the loader, and say what differs."""
    differing = [
        f"{key}: {shown(given.get(key))} in the state, {shown(own.get(key))} here"
        for key in sorted(own.keys() | given.keys())
        if own.get(key) != given.get(key)
    ]
    if differing:
        raise ValueError("the state is of another loader. " + "; ".join(differing))
