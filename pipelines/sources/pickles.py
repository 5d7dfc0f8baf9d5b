"""Pickles of plain types and NumPy arrays, read without running anything that they name."""

import io
import math
import pickle
import pickletools
import re
from typing import Any

import numpy as np

_DTYPE = re.compile(r"[<>|=]?[biuf][1248]")
# Opcodes that plain types and arrays do not need: instances by other ways than a call, and what lies elsewhere.
_REFUSED = {
    "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER",
    "READONLY_BUFFER", "FROZENSET",
}  # fmt: skip
_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
_TUPLE = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_KEPT_TUPLES = 1000  # tuples that are no arguments; an array has two. Very deep ones overflow the stack when hashed


def load(content: bytes) -> Any:
    """Return what is pickled: None, numbers, text, bytes, tuples, lists, dicts, and NumPy arrays of numbers.

    Text of Python 2 is returned as bytes.

    Raises:
        pickle.UnpicklingError: Something else is pickled.
        Exception: It is not a pickle; of many types.
    """
    _require_plain(content)
    return _plain(_Unpickler(io.BytesIO(content), encoding="bytes").load())


def _plain(value: Any) -> Any:
    """Return a value, or the values of a dict, with arrays in place of what stands for them."""
    if isinstance(value, dict):
        return {key: item.array() if isinstance(item, _Array) else item for key, item in value.items()}
    return value.array() if isinstance(value, _Array) else value


def _require_plain(content: bytes) -> None:
    """Raise an error for pickles that would take the memory or the stack of the process."""
    kept, before = 0, ""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _REFUSED:
            raise pickle.UnpicklingError(f"opcode {opcode.name} is refused")
        if opcode.name in _PUT:
            if int(argument or 0) > len(content):  # the unpickler allocates that many places
                raise pickle.UnpicklingError(f"place {argument} of {len(content)} bytes")
            continue
        if opcode.name == "MEMOIZE":
            continue
        kept += before in _TUPLE and opcode.name not in ("REDUCE", "BUILD")
        if kept > _KEPT_TUPLES:
            raise pickle.UnpicklingError("there are too many tuples")
        before = opcode.name


class _Inert:
    """A stand-in for what a pickle of arrays names. A pickle can set nothing in it but a valid state."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state is refused")


class _Dtype(_Inert):
    """In place of numpy.dtype."""

    def __init__(self, name: str | bytes, *flags: Any) -> None:
        text = _text(name)
        if not _DTYPE.fullmatch(text):
            raise pickle.UnpicklingError(f"dtype {text[:20]!r} is refused")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        if _text(state[1]) not in "<>=|" or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("a dtype with parts is refused")
        if _text(state[1]) in "<>":
            self.dtype = self.dtype.newbyteorder(_text(state[1]))  # type: ignore[arg-type]


class _Array(_Inert):
    """In place of numpy's function that makes an empty array; its state then fills it."""

    def __init__(self, of: Any, shape: Any, typecode: Any) -> None:
        self._state: tuple[tuple[int, ...], _Dtype, Any, str] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        self._set(shape, dtype, content, "F" if is_fortran else "C")

    def _set(self, shape: Any, dtype: Any, content: Any, order: str) -> None:
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
            raise pickle.UnpicklingError("an array of objects is refused")
        self._state = tuple(shape), dtype, content, order

    def array(self) -> np.ndarray:
        if self._state is None:
            raise pickle.UnpicklingError("an array has no content")
        shape, dtype, content, order = self._state
        if any(type(side) is not int or side < 0 for side in shape):
            raise pickle.UnpicklingError("an array has no shape")
        if math.prod(shape) * dtype.dtype.itemsize != len(content):
            raise pickle.UnpicklingError(f"an array of {len(content)} bytes has another size than it says")
        return np.frombuffer(content, dtype.dtype).reshape(shape, order=order)  # type: ignore[call-overload]


class _Buffer(_Array):
    """In place of numpy's function that makes an array of a buffer, in pickles of protocol 5."""

    def __init__(self, content: Any, dtype: Any, shape: Any, order: Any, *axis_order: Any) -> None:
        if axis_order not in ((), (None,)):
            raise pickle.UnpicklingError("an array with other axes is refused")
        self._set(shape, dtype, content, _text(order))

    __setstate__ = _Inert.__setstate__


class _Encoded(_Inert):
    """In place of _codecs.encode, which makes bytes of text in pickles of old protocols."""

    def __new__(cls, text: Any, encoding: Any = "latin1") -> bytes:  # type: ignore[misc]
        if _text(encoding) not in ("latin1", "latin-1"):  # another name might import a module
            raise pickle.UnpicklingError("an encoding is refused")
        return _text(text).encode("latin1")


class _Type(_Inert):
    """In place of numpy.ndarray, an argument that says nothing."""


_ADMITTED: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Type,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encoded,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Buffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which is refused: such a file can run any program when it is opened"
            ) from None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise pickle.UnpicklingError(f"{type(value).__name__} in place of text is refused")
    return value
