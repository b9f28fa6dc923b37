"""The base of every configuration a user touches: frozen, no unknown key, no NaN."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """One model a method, beside the method; a docstring under each field becomes its help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for manifests and ledgers."""
        plain: dict[str, Any] = json.loads(self.model_dump_json())
        return plain
