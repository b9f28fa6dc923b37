"""A method's process: asked over a pipe, bounded in time and memory."""

import json
import os
import resource
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CALL_SECONDS = 60.0
"""An answer that takes longer is not waited for."""

MEMORY = 10 * 2**30
"""Bytes a process may map."""


class Unanswered(Exception):
    """A method did not answer in time, or its process ended."""


class MethodError(Exception):
    """A method raised."""


class Process:
    """A method's process, one thread, bounded memory; killed when it does not answer."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
        with log.open("ab") as errors:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **threads},
                preexec_fn=_bound_memory,
            )
        self._rest = b""

    def call(self, seconds: float = CALL_SECONDS, **request: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            MethodError: if the method raised.
            Unanswered: if it took longer than `seconds`, or the process ended; the process is gone then.
        """
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError as error:
            raise Unanswered("the process had ended") from error
        answer: dict[str, Any] = json.loads(self._line(seconds))
        if "error" in answer:
            raise MethodError(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._child.kill()
        self._child.communicate()

    def _line(self, seconds: float) -> bytes:
        """The next line of the process."""
        assert self._child.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._child.stdout], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self._child.stdout.fileno(), 2**16) if ready else b""
            if not chunk:
                self.close()
                raise Unanswered("the process ended" if ready else f"no answer in {seconds:.0f} s")
            self._rest += chunk
        line, self._rest = self._rest.split(b"\n", 1)
        return line


def _bound_memory() -> None:
    """In the child: an allocation over the bound fails there instead of starving the machine."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
