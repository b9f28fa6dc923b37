"""Does an abstraction keep what costs? A test on logged steps of the target task.

Xi is Q_c-irrelevant if what it drops, u, says nothing of a step's cost and of Xi(s') once Xi(s) and a are known
[SaGui, Assumption on Xi; Li, Walsh & Littman 2006]. The test: a network is fitted to the costs and to Xi(s') from
(Xi(s), a, u), on one half of the episodes. On the other half it predicts twice, with the step's own u and with that of
the nearest step, in (Xi(s), a), of another episode. If u is irrelevant the two are alike in distribution, as far as the
steps are near, and the second prediction is no worse on average, whatever network it is (a local permutation test of
conditional independence [Kim et al. 2022, arXiv 2112.11666]).

It errs on the side of alarm: where u is determined by Xi(s) but steps are not near, exchanging u does harm although
nothing is lost. And it finds what a log can show: a hazard that no logged step has met is no evidence.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from scipy.stats import t as student_t

from safehold.core.errors import DataError
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.learn.guided.abstraction import Abstraction
from safehold.nn.mlp import mlp
from safehold.nn.tensors import to_array, to_tensor, torch_generator

HIDDEN, STEPS, BATCH, LEARNING_RATE = (64, 64), 2000, 256, 1e-3
"""Of the network and its training."""
NEIGHBOURS = 32
"""Nearest steps that are looked through for one of another episode; a step without one is left out."""
FEWEST_EPISODES = 20
"""Episodes that a log needs; half of them are held out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What exchanging u does to predictions of one thing.

    `harm`: mean rise of the squared error over held-out episodes, as a share of the variance of what is predicted.
    `p_value`: probability of at least this harm if u is irrelevant, Student's t over the means of `episodes` episodes,
    one-sided.
    """

    harm: float
    p_value: float
    episodes: int


@dataclass(frozen=True, slots=True)
class Irrelevance:
    """Evidence against an abstraction, on the costs of a step and on the abstract observation after it."""

    costs: Evidence
    following: Evidence

    def holds(self, level: float = 0.01) -> bool:
        """Whether neither speaks against it: both p-values above level / 2, so that a right one fails at most so often.

        A p-value that is not a number speaks against it.
        """
        return all(evidence.p_value > level / 2 for evidence in (self.costs, self.following))


def irrelevance(log: OfflineDataset, abstraction: Abstraction, streams: Streams) -> Irrelevance:
    """Tests an abstraction on logged episodes of the target task.

    Draws from the streams "episodes" (which are held out), "weights" and "batches".

    Raises:
        DataError: if the log has too few episodes, is of other observations, has no step that costs, or if nothing is
            dropped.
    """
    _check(log, abstraction)
    episodes = np.repeat(np.arange(len(log)), log.lengths)
    held_out = np.isin(episodes, streams["episodes"].permutation(len(log))[: len(log) // 2])
    states = np.concatenate([episode.observations[:-1] for episode in log]).astype(np.float64)
    following = np.concatenate([episode.observations[1:] for episode in log]).astype(np.float64)
    kept = np.hstack([abstraction(states), log.actions])
    dropped = states[:, list(abstraction.dropped)]
    outcomes = np.hstack([log.costs, abstraction(following) - abstraction(states)])
    kept, dropped, outcomes = (_standardised(columns, ~held_out) for columns in (kept, dropped, outcomes))
    network = _fitted(np.hstack([kept, dropped])[~held_out], outcomes[~held_out], streams)
    kept, dropped, outcomes = kept[held_out], dropped[held_out], outcomes[held_out]
    rows, partners = _partners(kept, episodes[held_out])
    own, exchanged = (
        np.square(network(np.hstack([kept[rows], dropped[chosen]])) - outcomes[rows]) for chosen in (rows, partners)
    )
    harms, of_episode = exchanged - own, episodes[held_out][rows]
    k = len(log.spec.cost_names)
    return Irrelevance(*(_evidence(columns.mean(axis=1), of_episode) for columns in (harms[:, :k], harms[:, k:])))


def _check(log: OfflineDataset, abstraction: Abstraction) -> None:
    if abstraction.size != log.spec.observation_size or not abstraction.dropped:
        raise DataError(
            f"{log.spec.env_id}: observations have {log.spec.observation_size} entries, the abstraction keeps "
            f"{len(abstraction.columns)} of {abstraction.size}; there is nothing to test"
        )
    if len(log) < FEWEST_EPISODES or not (log.costs > 0).any():
        raise DataError(
            f"{log.spec.env_id}: {len(log)} episodes, of which {int((log.cost_returns > 0).any(axis=1).sum())} cost "
            f"anything; the test needs {FEWEST_EPISODES}, and steps that cost: log more, by more reckless behaviour"
        )


def _standardised(columns: Float[np.ndarray, "n f"], fitted: np.ndarray) -> Float[np.ndarray, "n f"]:
    """With mean 0 and standard deviation 1 over the rows that are fitted to; a constant column stays at 0."""
    sd = columns[fitted].std(axis=0)
    return (columns - columns[fitted].mean(axis=0)) / np.where(sd > 0, sd, 1.0)


class _Network:
    """A perceptron that was fitted, on NumPy's side."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    @torch.inference_mode()
    def __call__(self, inputs: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n y"]:
        """Predictions, standardised."""
        return to_array(self._module(to_tensor(inputs))).astype(np.float64)


def _fitted(inputs: Float[np.ndarray, "n f"], outcomes: Float[np.ndarray, "n y"], streams: Streams) -> _Network:
    """Least squares by Adam."""
    sizes = (inputs.shape[1], *HIDDEN, outcomes.shape[1])
    module = mlp(sizes, generator=torch_generator(streams.integer("weights")), activation=torch.nn.ReLU)
    optimiser = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)
    generator = torch_generator(streams.integer("batches"))
    told, wanted = to_tensor(inputs), to_tensor(outcomes)
    for _ in range(STEPS):
        rows = torch.randint(len(told), (BATCH,), generator=generator)
        loss = (module(told[rows]) - wanted[rows]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return _Network(module)


def _partners(
    kept: Float[np.ndarray, "n f"], episodes: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
    """Steps, and for each the nearest one of another episode."""
    count = min(NEIGHBOURS + 1, len(kept))
    near = np.asarray(cKDTree(kept).query(kept, k=count)[1])
    foreign = episodes[near] != episodes[:, None]
    rows = np.flatnonzero(foreign.any(axis=1))
    return rows, near[rows, foreign[rows].argmax(axis=1)]


def _evidence(harms: Float[np.ndarray, "m"], episodes: Int[np.ndarray, "m"]) -> Evidence:
    """A t-test over the means of episodes; steps of one are not independent."""
    means = np.array([harms[episodes == episode].mean() for episode in np.unique(episodes)])
    n = len(means)
    spread = float(means.std(ddof=1)) if n > 1 else np.nan
    if spread == 0.0:
        return Evidence(harm=float(means.mean()), p_value=float(means.mean() <= 0.0), episodes=n)
    statistic = float(means.mean()) / (spread / np.sqrt(n))
    return Evidence(harm=float(means.mean()), p_value=float(student_t.sf(statistic, n - 1)), episodes=n)
