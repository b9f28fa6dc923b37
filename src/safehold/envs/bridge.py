"""A world's process: for simulators whose requirements exclude ours, spoken to over two pipes and never trusted.

A message is a frame in either direction: two unsigned 32-bit integers, little-endian, the length of a head and the
number of values; the head, a JSON object; and the values, little-endian float32. Nothing that comes is ever executed.
"""

import json
import selectors
import struct
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, NoReturn

import numpy as np
from jaxtyping import Float32

from safehold.core.errors import EnvironmentFault, UsageError

LONGEST_HEAD = 2**16
"""Bytes of a head."""
MOST_VALUES = 2**16
"""Values of a message."""
VALUES = np.dtype("<f4")

_LENGTHS = struct.Struct("<II")
_LAST_WORDS = 600  # characters of what the process wrote on its standard error that a message shows
_GOODBYE = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """What the process said: a dictionary of plain values, and numbers."""

    head: Mapping[str, Any]
    values: Float32[np.ndarray, "_"]


class Bridge:
    """A process that answers every question with one message.

    It gets no option to misbehave: one that ends, is silent past the deadline, or says anything but one whole answer
    is killed, and the error says so, with the last words of its standard error. After that every question is refused.

    Args:
        name: what the messages of errors begin with.
        command: how to start it; it reads questions on its standard input and answers on its standard output.

    Raises:
        UsageError: if the command cannot be started.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._name = name
        # closed by `_end`; a pipe would have to be emptied all the time
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
            )
        except OSError as error:
            self._errors.close()
            raise UsageError(f"{name}: {command[0]} cannot be started ({error}); name a Python interpreter") from error
        self._end = weakref.finalize(self, _end, self._process, self._errors)  # at the latest when our process ends

    def ask(self, head: Mapping[str, Any], values: Float32[np.ndarray, "_"] | None = None, *, seconds: float) -> Answer:
        """Sends a question and waits so long for its answer.

        Raises:
            UsageError: if the process says that something is not installed there.
            EnvironmentFault: if it says that something broke, ends, stays silent, or speaks something else.
        """
        if not self._end.alive:
            raise EnvironmentFault(f"{self._name}: its process was ended before; build a new world")
        deadline = time.monotonic() + seconds
        self._send(json.dumps(dict(head)).encode(), b"" if values is None else values.astype(VALUES).tobytes())
        length, count = _LENGTHS.unpack(self._receive(_LENGTHS.size, deadline, seconds))
        if length > LONGEST_HEAD or count > MOST_VALUES:
            self._fault(
                f"announced {length} bytes and {count} values, more than any answer has; it does not speak this "
                "protocol, or something else writes on its standard output"
            )
        said = self._receive(length, deadline, seconds)
        numbers = np.frombuffer(self._receive(count * VALUES.itemsize, deadline, seconds), dtype=VALUES)
        try:
            answer = json.loads(said)
        except ValueError as error:
            self._fault(f"answered {said[:60]!r}, which is not JSON ({error})")
        if not isinstance(answer, dict):
            self._fault(f"answered {said[:60]!r}, expected a JSON object")
        if "missing" in answer:
            self._end()
            raise UsageError(f"{self._name}: {str(answer['missing'])[:_LAST_WORDS]}")
        if "broken" in answer:
            self._fault(f"says that {str(answer['broken'])[:_LAST_WORDS]}")
        return Answer(answer, numbers.astype(np.float32))

    def broken(self, what: str) -> NoReturn:
        """Ends the process because an answer cannot be true.

        Raises:
            EnvironmentFault: always.
        """
        self._fault(what)

    def close(self) -> None:
        """Ends the process, if it still runs."""
        self._end()

    def _send(self, head: bytes, values: bytes) -> None:
        """A question is smaller than a pipe holds, and the answer to the last one is read: writing does not wait."""
        pipe = self._process.stdin
        assert pipe is not None
        frame = _LENGTHS.pack(len(head), len(values) // VALUES.itemsize) + head + values
        try:
            pipe.write(frame)
        except OSError:
            self._ended()

    def _receive(self, size: int, deadline: float, seconds: float) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        content = b""
        with selectors.DefaultSelector() as ready:
            ready.register(pipe, selectors.EVENT_READ)
            while len(content) < size:
                if not ready.select(max(0.0, deadline - time.monotonic())):
                    self._fault(
                        f"did not answer within {seconds:g} s; the machine is overloaded, or the simulator hangs"
                    )
                part = pipe.read(size - len(content))
                if not part:
                    self._ended()
                content += part
        return content

    def _ended(self) -> NoReturn:
        try:
            code = self._process.wait(_GOODBYE)
        except subprocess.TimeoutExpired:
            self._fault("closed its pipes but runs on")
        self._fault(f"ended with exit code {code}" + (" (killed, perhaps out of memory)" if code == -9 else ""))

    def _fault(self, what: str) -> NoReturn:
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip()[-_LAST_WORDS:]
        self._end()
        last = f"; the last it wrote was: {words}" if words else ""
        raise EnvironmentFault(f"{self._name}: its process {what}; it was ended, build a new world{last}")


def _end(process: "subprocess.Popen[bytes]", errors: IO[bytes]) -> None:
    """Kills it: a simulator has nothing to save."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()
    errors.close()
