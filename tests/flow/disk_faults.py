"""Makes the n-th step of this process towards its disk the last one, or a failing one; for forked children only.

SQLite's Unix layer lets its system calls be replaced (`sqlite3_vfs.xSetSystemCall`, made for tests), so that a process
can be ended between any two of them, in the middle of a write too, and any of them can fail with a real error number.
The steps that Python takes itself for the head file and the names of files are replaced in `os`.
"""

import _sqlite3
import ctypes
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

SQLITE_CALLS: dict[str, tuple[Any, ...]] = {
    "open": (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "pwrite": (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64),
    "pwrite64": (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64),
    "ftruncate": (ctypes.c_int, ctypes.c_int, ctypes.c_int64),
    "unlink": (ctypes.c_int, ctypes.c_char_p),
    "mkdir": (ctypes.c_int, ctypes.c_char_p, ctypes.c_int),
    "fchmod": (ctypes.c_int, ctypes.c_int, ctypes.c_int),
}
PYTHON_CALLS = ("open", "fsync", "replace", "rename", "unlink", "mkdir")

Fault = Callable[[str], int | None]
"""Given the name of the step that is about to be taken: None to let it be, or the error number with which it fails."""


class _Vfs(ctypes.Structure):
    """`struct sqlite3_vfs`, up to what is needed here."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("version", "file_size", "longest_path")),
        *((name, ctypes.c_void_p) for name in ("next", "name", "data", "open", "delete", "access", "full_path")),
        *((name, ctypes.c_void_p) for name in ("dl_open", "dl_error", "dl_symbol", "dl_close", "randomness", "sleep")),
        *((name, ctypes.c_void_p) for name in ("time", "last_error", "time_64", "set_call", "get_call", "next_call")),
    )


def sqlite_vfs() -> ctypes.c_void_p:
    """The file layer of the SQLite that Python uses; skips the test where it is out of reach."""
    try:
        find = ctypes.CDLL(_sqlite3.__file__).sqlite3_vfs_find
    except (AttributeError, OSError) as error:
        pytest.skip(f"SQLite's system calls cannot be replaced in this build of Python: {error}")
    find.restype = ctypes.c_void_p
    find.argtypes = (ctypes.c_char_p,)
    address = ctypes.c_void_p(find(None))
    if ctypes.cast(address, ctypes.POINTER(_Vfs)).contents.version < 3:
        pytest.skip("this SQLite is too old to have its system calls replaced")
    return address


_kept: list[Any] = []  # ctypes' callbacks must outlive the calls to them


def install(fault: Fault) -> None:
    """From now on every step towards the disk first asks `fault`."""
    address = sqlite_vfs()
    vfs = ctypes.cast(address, ctypes.POINTER(_Vfs)).contents
    set_call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(vfs.set_call)
    get_call = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(vfs.get_call)
    for name, (result, *arguments) in SQLITE_CALLS.items():
        original = get_call(address, name.encode())
        if original is None:
            continue
        kind = ctypes.CFUNCTYPE(result, *arguments, use_errno=True)
        replacement = kind(_asking(f"sqlite {name}", kind(original), fault))
        _kept.append(replacement)
        assert set_call(address, name.encode(), ctypes.cast(replacement, ctypes.c_void_p)) == 0
    for name in PYTHON_CALLS:
        setattr(os, name, _asking_python(name, getattr(os, name), fault))


def _asking(name: str, original: Any, fault: Fault) -> Callable[..., int]:
    """A system call that fails where `fault` says so."""

    def call(*arguments: Any) -> int:
        number = fault(name)
        if number == TORN and name.startswith("sqlite pwrite"):
            descriptor, data, size, offset = arguments
            original(descriptor, data, size // 2, offset)
        if number in (KILLED, TORN):
            os.kill(os.getpid(), signal.SIGKILL)
        if number is not None:
            ctypes.set_errno(number)
            return -1
        return original(*arguments)

    return call


def _asking_python(name: str, original: Callable[..., Any], fault: Fault) -> Callable[..., Any]:
    """The same for a function of `os`."""

    def call(*arguments: Any, **more: Any) -> Any:
        number = fault(name)
        if number in (KILLED, TORN):
            os.kill(os.getpid(), signal.SIGKILL)
        if number is not None:
            raise OSError(number, os.strerror(number), str(arguments[0]))
        return original(*arguments, **more)

    return call


KILLED = -1
TORN = -2


class At:
    """A fault at the step with this number, counted from 0; `lasting` ones stay from then on."""

    def __init__(self, step: int, number: int, *, lasting: bool = False, only: tuple[str, ...] = ()) -> None:
        self.step = step
        self.number = number
        self.lasting = lasting
        self.only = only
        self.steps: list[str] = []

    def __call__(self, name: str) -> int | None:
        self.steps.append(name)
        here = len(self.steps) - 1
        due = here >= self.step if self.lasting else here == self.step
        return self.number if due and (not self.only or name.endswith(self.only)) else None


def in_child(work: Callable[[], object], *, seconds: int = 60) -> int:
    """Runs `work` in a forked child; its exit code, or the negative signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            signal.alarm(seconds)
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
