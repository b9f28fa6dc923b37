"""Safehold: safe reinforcement learning from logged episodes to certified operation."""

from safehold.core.certificate import Certificate, Trial, TrialState
from safehold.core.constraint import Constraint, Limit, MaximumCost, SumCost
from safehold.core.env import SafeEnv
from safehold.core.episode import Episode
from safehold.core.errors import SafeholdError
from safehold.core.measurement import Measurement
from safehold.core.policy import Actor, Policy, PolicyFamily
from safehold.core.seeding import Streams
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.core.target import Target, TargetSpace

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "Box",
    "Certificate",
    "Constraint",
    "Discrete",
    "Episode",
    "Limit",
    "MaximumCost",
    "Measurement",
    "Policy",
    "PolicyFamily",
    "SafeEnv",
    "SafeholdError",
    "Streams",
    "SumCost",
    "Target",
    "TargetSpace",
    "TaskSpec",
    "Trial",
    "TrialState",
    "__version__",
]
