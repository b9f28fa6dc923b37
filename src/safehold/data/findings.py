"""What is worth saying about a dataset: one finding, with its place and its remedy."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["fail", "warn", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`code` is short and stable, for programs; `where` is the array and place; `fix` is what a person can do.

    `fail`: not usable as it is. `warn`: usable, but somebody should look first. `note`: worth knowing, nothing to do.
    """

    severity: Severity
    code: str
    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.what}. {self.fix}"
