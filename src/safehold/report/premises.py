"""The premises of a certificate in words, and whether a run checked them, trusted them, or saw one break."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from safehold.deploy.replay import State
from safehold.report.figures.certificate import Premise, Standing


def premises(state: State, named: Collection[str] | None = None) -> tuple[Premise, ...]:
    """These premises, or every one that a certificate of this run named, in the order of their ids."""
    if named is None:
        named = {premise for asked in state.asked.values() for premise in asked.certificate.premises}
    return tuple(_premise(state, name) for name in sorted(named, key=lambda name: (len(name.split("-")[0]), name)))


def _premise(state: State, name: str) -> Premise:
    """One premise; an id that this release does not know is trusted, in the words of docs/guarantees.md alone."""
    text, standing = EXPLAINED.get(name, ("see docs/guarantees.md", _trusted))
    return Premise(id=name, text=text, standing=standing(state))


def _trusted(_state: State) -> Standing:
    return "trusted"


def _contradicted_by(*monitors: str) -> Callable[[State], Standing]:
    """Broken if one of these raised the alarm: something was told that the premise cannot explain."""

    def standing(state: State) -> Standing:
        return "broken" if state.alarm is not None and state.alarm.monitor in monitors else "trusted"

    return standing


_prior = _contradicted_by("paper", "innovations", "rewards")


def _independence(state: State) -> Standing:
    """Reset seeds were told, and no two episodes share one."""
    told = [event.seeds for event in state.told.values()]
    if not told or any(seeds is None for seeds in told):
        return "trusted"
    every = [seed for seeds in told if seeds is not None for seed in seeds]
    return "checked" if len(every) == len(set(every)) else "broken"


def _cap(state: State) -> Standing:
    """`tell` refuses a cost above its cap, so every cost that was told is under it."""
    return "checked" if state.told else "trusted"


def _seeds(state: State) -> Standing:
    """A seed target that its own episodes contradicted was not safe."""
    return "broken" if bool((state.contradicted() & state.declaration.seeds).any()) else "trusted"


def _verified(state: State) -> Standing:
    """Only seed targets whose own episodes passed the test are handed out on it."""
    return "checked" if _seeds(state) == "trusted" and state.established.any() else _seeds(state)


EXPLAINED: Mapping[str, tuple[str, Callable[[State], Standing]]] = MappingProxyType(
    {
        "A1-prior": ("the expected costs are drawn from the declared prior, hyper-parameters fixed in advance", _prior),
        "A2-noise": ("episode returns scatter about their mean with at most the declared variance", _trusted),
        "A3-independence": ("episodes are independent: every one has a reset seed of its own", _independence),
        "A4-unchanged": ("policy and environment stay the same through the run", _trusted),
        "A5-cap": ("no episode costs more than the declared cap", _cap),
        "A6-seeds-attested": ("the seed targets are safe, as whoever declared them attests", _seeds),
        "A6-seeds-verified": ("the seed targets are safe, having passed a test at their share of delta", _verified),
        "A7-normal-episodes": ("for chance and cvar limits: the costs of a target's episodes are normal", _trusted),
        "A8-norm-bound": (
            "each expected cost is within the declared norm bound of its prior mean, in the space of its kernel",
            _contradicted_by("log_det"),
        ),
        "A9-sub-gaussian": ("one episode's cost is sub-Gaussian around its mean with the declared constant", _trusted),
        "A10-lipschitz": (
            "the expected costs change no faster than the declared constants say",
            _contradicted_by("lipschitz"),
        ),
        "A11-noise-bound": ("no told measurement is further from the truth than the declared bound", _trusted),
        "A12-fresh-epoch": (
            "after a resume the world is a new draw from the prior, as whoever resumed attests",
            _trusted,
        ),
        "A13-correlation": (
            "the coupled cost and the reward are off together, with the declared correlation and dial errors",
            _prior,
        ),
        "A6-seeds-from-log": ("the seed targets are safe, because logged episodes near them were", _seeds),
    }
)
"""Id of docs/guarantees.md -> its sentence, and how a run stands to it."""
