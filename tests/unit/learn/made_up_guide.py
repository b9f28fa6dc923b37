"""Guides that nothing was learnt by, for tests of students."""

from safehold.core.spec import TaskSpec
from safehold.learn.actions import box_of
from safehold.learn.guided.abstraction import Abstraction
from safehold.learn.guided.guide import Guide
from safehold.learn.online.sac import LOG_SD_RANGE
from safehold.learn.squashed_policy import freeze_squashed
from safehold.nn.actors import TanhGaussianActor
from safehold.nn.tensors import torch_generator


def made_up_guide(spec: TaskSpec, seed: int = 3) -> Guide:
    """One that sees all but the first entry, in the order from the last to the second."""
    abstraction = Abstraction(tuple(range(spec.observation_size - 1, 0, -1)), spec.observation_size)
    actor = TanhGaussianActor(
        len(abstraction.columns),
        box_of(spec).size,
        (8,),
        log_sd_range=LOG_SD_RANGE,
        generator=torch_generator(seed),
    )
    return Guide(freeze_squashed(actor, LOG_SD_RANGE, box_of(spec)), abstraction)
