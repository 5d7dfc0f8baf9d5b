"""DALI's pipelines in a forked child: their threads stayed in the parent, and whoever waits for them waits for ever."""

import ctypes
import os
import weakref

from nvidia.dali import Pipeline

_started: "weakref.WeakSet[Pipeline]" = weakref.WeakSet()


def abandoned_in_children(pipeline: Pipeline) -> Pipeline:
    """Return `pipeline`, which children forked from now on leave alone.

    Without this a child hangs where it drops the pipeline, or at its exit: DALI then joins the pipeline's threads.
    """
    _started.add(pipeline)
    return pipeline


def _abandon() -> None:
    for pipeline in list(_started):
        if pipeline._pipe is not None:
            # One reference too many, so that the destructor, which joins the threads too, never runs.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(pipeline._pipe))
            pipeline._pipe = None
    _started.clear()


os.register_at_fork(after_in_child=_abandon)
