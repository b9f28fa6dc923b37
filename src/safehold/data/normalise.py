"""Standardise the columns of data: fit, apply, invert. Travels inside checkpoints, so that a policy keeps its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from safehold.core.errors import DataError


@dataclass(frozen=True)
class Normaliser:
    """Subtracts `mean` from every column and divides by `std`.

    A column marked `constant` did not vary in the data it was fitted to. Nothing could be learnt from it, so it
    becomes zero whatever it shows later; its `std` is 1 by convention.
    """

    mean: Float[np.ndarray, "d"]
    std: Float[np.ndarray, "d"]
    constant: Bool[np.ndarray, "d"]

    def __post_init__(self) -> None:
        if not self.mean.shape == self.std.shape == self.constant.shape or self.mean.ndim != 1:
            raise DataError(
                f"mean {self.mean.shape}, std {self.std.shape} and constant {self.constant.shape} must be "
                "vectors of one length"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and (self.std > 0).all()):
            raise DataError("normalisation needs finite means and finite, positive standard deviations; fit it again")

    @staticmethod
    def fit(values: Shaped[np.ndarray, "n d"]) -> "Normaliser":
        """Means and standard deviations of the columns, in float64.

        A column counts as constant if its standard deviation is within the rounding of float32 around its mean.

        Raises:
            DataError: if there are no rows, or a value is not finite.
        """
        if values.ndim != 2 or len(values) == 0:
            raise DataError(f"normalisation is fitted to rows of values, got an array of shape {values.shape}")
        mean = values.mean(axis=0, dtype=np.float64)
        std = values.std(axis=0, dtype=np.float64)
        if not (np.isfinite(mean).all() and np.isfinite(std).all()):
            column = int(np.argmax(~(np.isfinite(mean) & np.isfinite(std))))
            raise DataError(f"column {column} holds values that are not finite, or too large to square; check the data")
        constant = std <= 4.0 * np.finfo(np.float32).eps * np.abs(mean)
        return Normaliser(mean, np.where(constant, 1.0, std), constant)

    def apply(self, values: Shaped[np.ndarray, "*rows d"]) -> Float[np.ndarray, "*rows d"]:
        """(values - mean) / std in float32, zero in constant columns."""
        self._check_width(values)
        return np.where(self.constant, 0.0, (values - self.mean) / self.std).astype(np.float32)

    def invert(self, normalised: Shaped[np.ndarray, "*rows d"]) -> Float[np.ndarray, "*rows d"]:
        """Inverse of `apply` in float64: normalised * std + mean, the mean in constant columns."""
        self._check_width(normalised)
        return np.where(self.constant, self.mean, normalised.astype(np.float64) * self.std + self.mean)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `of_json` reads them back to the last bit."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "constant": self.constant.tolist()}

    @staticmethod
    def of_json(plain: Mapping[str, Any], size: int) -> "Normaliser":
        """The normaliser that `to_json` wrote, for `size` columns.

        Raises:
            DataError: if statistics are missing, of another length, not finite, or a standard deviation is not > 0.
        """
        try:
            normaliser = Normaliser(
                np.array(plain["mean"], dtype=np.float64),
                np.array(plain["std"], dtype=np.float64),
                np.array(plain["constant"], dtype=np.bool_),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"normalisation statistics cannot be read: {error}") from error
        if len(normaliser.mean) != size:
            raise DataError(
                f"normalisation statistics of {len(normaliser.mean)} columns, expected {size}; they are of another task"
            )
        return normaliser

    def _check_width(self, values: np.ndarray) -> None:
        if values.ndim == 0 or values.shape[-1] != len(self.mean):
            raise DataError(f"normaliser of {len(self.mean)} columns got values of shape {values.shape}")
