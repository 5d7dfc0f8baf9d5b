"""DALI in a forked child: the threads stayed in the parent, and whoever waits for them or their locks hangs."""

import ctypes
import os
import weakref

from nvidia.dali import Pipeline

_started: "weakref.WeakSet[Pipeline]" = weakref.WeakSet()
_forked_amid_work = False  # a pipeline of an ancestor may have been at work when it forked


def abandoned_in_children(pipeline: Pipeline) -> Pipeline:
    """Return `pipeline`, which children forked from now on leave alone.

    Without this a child hangs where it drops the pipeline, or at its exit: DALI then joins the pipeline's threads.
    """
    _started.add(pipeline)
    return pipeline


def check_process() -> None:
    """Raise RuntimeError in a process in which a new pipeline may hang, as seldom as one in sixteen do."""
    if _forked_amid_work:
        raise RuntimeError(
            "this process was forked from one in which a loader was at work, and DALI may hang in it. Start processes "
            "by multiprocessing's method 'spawn', or fork before the first batch or after the loaders are deleted."
        )


def _abandon() -> None:
    global _forked_amid_work
    _forked_amid_work = _forked_amid_work or len(_started) > 0
    for pipeline in list(_started):
        if pipeline._pipe is not None:
            # One reference too many, so that the destructor, which joins the threads too, never runs.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(pipeline._pipe))
            pipeline._pipe = None
    _started.clear()


os.register_at_fork(after_in_child=_abandon)
