"""Uncertain coefficients of a prior mean, as part of the covariance."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from safehold.core.errors import UsageError

_ROUNDING = 1e-10


@dataclass(frozen=True)
class LinearTerms:
    """A prior mean Phi b with b ~ N(b0, Sigma): adds Phi Sigma Phi^T to the kernel   [R&W 2006, Sec. 2.7, Eq. (2.40)].

    `features` (m, q): Phi, the features of every candidate (for an affine map 1, R, G); `covariance` (q, q): Sigma,
    of the fitted coefficients. The mean Phi b0 itself is the process' prior mean. A fitted map is never plugged in as
    if it were exact: what is learnt at one target about its coefficients is learnt everywhere.
    """

    features: Float[np.ndarray, "m q"]
    covariance: Float[np.ndarray, "q q"]
    diagonal: Float[np.ndarray, "m"] = field(init=False, repr=False)
    """phi_z Sigma phi_z^T, the variance they add at every candidate."""

    def __post_init__(self) -> None:
        features = np.array(self.features, dtype=np.float64)
        covariance = np.array(self.covariance, dtype=np.float64)
        if features.ndim != 2 or covariance.shape != (features.shape[1],) * 2:
            raise UsageError(
                f"linear terms need features (m, q) and a coefficient covariance (q, q), "
                f"got {features.shape} and {covariance.shape}"
            )
        if not (np.all(np.isfinite(features)) and np.all(np.isfinite(covariance))):
            raise UsageError("features and coefficient covariance of linear terms must be finite")
        scale = float(np.max(np.abs(covariance), initial=0.0))
        if np.any(np.abs(covariance - covariance.T) > _ROUNDING * scale):
            raise UsageError(f"the coefficient covariance must be symmetric, got {covariance.tolist()}")
        if features.shape[1] and np.linalg.eigvalsh(covariance)[0] < -_ROUNDING * scale:
            raise UsageError(f"the coefficient covariance has a negative eigenvalue: {covariance.tolist()}")
        diagonal = np.maximum(np.einsum("mq,mq->m", features @ covariance, features), 0.0)
        for name, array in (("features", features), ("covariance", covariance), ("diagonal", diagonal)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def cross(self, a: Int[np.ndarray, "p"], b: Int[np.ndarray, "r"]) -> Float[np.ndarray, "p r"]:
        """Phi_a Sigma Phi_b^T."""
        return self.features[a] @ self.covariance @ self.features[b].T

    def with_all(self, a: Int[np.ndarray, "p"]) -> Float[np.ndarray, "p m"]:
        """Phi_a Sigma Phi^T, over all candidates."""
        return (self.features[a] @ self.covariance) @ self.features.T
