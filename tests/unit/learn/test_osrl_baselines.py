"""Our baselines beside OSRL's: the same losses and gradients with the same weights, batch and noise.

The answers of OSRL are in tests/data/osrl-baselines.npz; `osrl_baselines.py` made them. What differs on purpose is said
where it is tested, and in docs/offline-baselines.md.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from safehold.core.constraint import Limit
from safehold.core.spec import Box, TaskSpec
from safehold.learn.multiplier import LogMultiplier, ScalarMultiplier
from safehold.learn.offline import coptidice
from safehold.learn.offline.actor_critic import backed_up, critic_loss, discounted_limit, least
from safehold.learn.offline.bcq_lag import PRESETS as BCQ_PRESETS
from safehold.learn.offline.bcq_lag import Perturbation
from safehold.learn.offline.bear_lag import PRESETS as BEAR_PRESETS
from safehold.learn.offline.bear_lag import maximum_mean_discrepancy
from safehold.learn.offline.behaviour_model import CODE_CLIP, behaviour_loss
from safehold.learn.offline.coptidice import COptiDICEConfig, CostBound
from safehold.learn.offline.cpq import PRESETS as CPQ_PRESETS
from safehold.learn.offline.cpq import furthest, penalised, penalised_critic_loss, penalised_gain, within
from safehold.learn.offline.lagrangian import lagrangian, mixed
from safehold.learn.transitions import Transitions
from safehold.nn.actors import TanhGaussianActor
from safehold.nn.ensemble import Critics, Ensemble
from safehold.nn.mlp import linear_layers
from safehold.nn.variational import ConditionalAutoencoder, divergence_from_prior

FILE = Path("tests/data/osrl-baselines.npz")
SPEC = TaskSpec(env_id="test/OSRL", observation_size=5, action=Box((-1.0, -1.0), (1.0, 1.0)), horizon=30)
LIMIT, DRAWN = 2.0, 4
THRESHOLD = torch.tensor([discounted_limit(LIMIT, 30, BCQ_PRESETS["published"])])
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Theirs:
    """What is kept of one of OSRL's learners."""

    def __init__(self, name: str) -> None:
        with np.load(FILE, allow_pickle=False) as file:
            found = {key: torch.from_numpy(file[key]) for key in file if key.startswith(f"{name}/")}
        self._found = {key.removeprefix(f"{name}/"): value for key, value in found.items()}

    def __getitem__(self, key: str) -> Tensor:
        return self._found[key]

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def layers(self, part: str, places: tuple[str, ...], what: str = "weight") -> list[tuple[Tensor, Tensor]]:
        """Weights and biases, or their gradients, of a perceptron; places joined by + stand side by side."""
        return [
            tuple(
                torch.cat([self[f"{what}/{part}.{one}.{kind}"] for one in place.split("+")])
                for kind in ("weight", "bias")
            )
            for place in places
        ]

    @property
    def batch(self) -> Transitions:
        inputs = {key.removeprefix("input/"): value for key, value in self._found.items() if key.startswith("input/")}
        return Transitions(
            observations=inputs["observations"],
            actions=inputs["actions"],
            rewards=inputs["rewards"],
            costs=inputs["costs"][:, None],
            next_observations=inputs["next_observations"],
            goes_on=1.0 - inputs["done"],
        )


def put(network: nn.Module, layers: list[tuple[Tensor, Tensor]]) -> None:
    """Their weights into one of our perceptrons."""
    for linear, (weight, bias) in zip(linear_layers(network), layers, strict=True):
        linear.weight.data, linear.bias.data = weight.clone(), bias.clone()


def put_ensemble(ensemble: Ensemble, members: list[list[tuple[Tensor, Tensor]]]) -> None:
    """Their perceptrons into one of our ensembles."""
    for place, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
        weight.data = torch.stack([member[place][0].T for member in members])
        bias.data = torch.stack([member[place][1][None] for member in members])


MLP = ("0", "2", "4")
ACTOR = ("net.0", "net.2", "mu_layer+log_std_layer")


def names_of(name: str) -> list[tuple[str, ...]]:
    """Names of the members of a critic."""
    halves = ("q_nets",) if name == "cpq" else ("q1_nets", "q2_nets")
    return [f"{half}.{i}" for half in halves for i in range(2)]


def critics_of(theirs: Theirs, name: str, old: str = "") -> Critics:
    members = names_of(name)
    critics = Critics(5, 2, members=len(members), signals=2, hidden=(8, 8), generator=generator())
    parts = [f"{kind}{old}.{member}" for member in members for kind in ("critic", "cost_critic")]
    put_ensemble(critics.ensemble, [theirs.layers(part, MLP) for part in parts])
    return critics


def autoencoder_of(theirs: Theirs) -> ConditionalAutoencoder:
    autoencoder = ConditionalAutoencoder(5, 2, 4, (8, 8), generator=generator())
    put(autoencoder.encoder, theirs.layers("vae", ("e1", "e2", "mean+log_std")))
    put(autoencoder.decoder, theirs.layers("vae", ("d1", "d2", "d3")))
    return autoencoder


def actor_of(theirs: Theirs, old: str = "") -> TanhGaussianActor:
    actor = TanhGaussianActor(5, 2, (8, 8), log_sd_range=(-20.0, 2.0), generator=generator())
    put(actor.perceptron, theirs.layers(f"actor{old}", ACTOR))
    return actor


def perturbation_of(theirs: Theirs, old: str = "") -> Perturbation:
    actor = Perturbation(5, 2, (8, 8), 0.3, generator=generator())
    put(actor.perceptron, theirs.layers(f"actor{old}.pi", MLP))
    return actor


def assert_gradients(network: nn.Module, loss: Tensor, expected: list[tuple[Tensor, Tensor]]) -> None:
    """Of a perceptron."""
    found = torch.autograd.grad(loss, [each for layer in linear_layers(network) for each in (layer.weight, layer.bias)])
    for gradient, theirs in zip(found, [each for layer in expected for each in layer], strict=True):
        torch.testing.assert_close(gradient, theirs, **CLOSE)


def assert_ensemble_gradients(ensemble: Ensemble, loss: Tensor, expected: list[list[tuple[Tensor, Tensor]]]) -> None:
    """Of an ensemble, member by member."""
    found = torch.autograd.grad(loss, [*ensemble.weights, *ensemble.biases])
    for place in range(3):
        for member, layers in enumerate(expected):
            torch.testing.assert_close(found[place][member].T, layers[place][0], **CLOSE)
            torch.testing.assert_close(found[3 + place][member, 0], layers[place][1], **CLOSE)


@pytest.mark.parametrize("name", ["bcql", "bearl", "cpq"])
def test_the_behaviour_model_has_the_same_loss_and_gradients(name):
    theirs = Theirs(name)
    batch, autoencoder = theirs.batch, autoencoder_of(theirs)
    code = autoencoder.encode(batch.observations, batch.actions)
    drawn = code.mean + torch.exp(code.log_sd) * theirs["draw/0"]
    loss = behaviour_loss(autoencoder.decode(batch.observations, drawn), batch.actions, code, 0.5)
    assert loss.item() == pytest.approx(theirs["loss/loss_vae"].item(), abs=1e-5)
    assert_gradients(autoencoder.encoder, loss, theirs.layers("vae", ("e1", "e2", "mean+log_std"), "gradient"))
    drawn = drawn.detach()
    loss = behaviour_loss(autoencoder.decode(batch.observations, drawn), batch.actions, code, 0.5)
    assert_gradients(autoencoder.decoder, loss, theirs.layers("vae", ("d1", "d2", "d3"), "gradient"))


@pytest.mark.parametrize("name", ["bcql", "bearl"])
def test_double_critics_have_the_same_loss_and_gradients(name):
    theirs = Theirs(name)
    batch, critics, slow = theirs.batch, critics_of(theirs, name), critics_of(theirs, name, "_old")
    rows = batch.next_observations.repeat_interleave(DRAWN, dim=0)
    wanted = []
    for draw, goes_on in ((1, batch.goes_on), (2, torch.ones(12))):  # deviation: ours draw once for both signals
        noise = theirs[f"draw/{draw}"]
        if name == "bcql":
            decoded = autoencoder_of(theirs).decode(rows, noise.clamp(-CODE_CLIP, CODE_CLIP))
            actions = perturbation_of(theirs, "_old")(rows, decoded)
        else:
            inner = actor_of(theirs, "_old")(rows).inner
            actions = torch.tanh(inner.mean + torch.exp(inner.log_sd) * noise)
        values = mixed(slow(rows, actions), 0.75).reshape(12, DRAWN, 2).amax(dim=1)
        # deviation: OSRL's costs go on past every end, ours end with the episode
        wanted.append(backed_up(replace(batch, goes_on=goes_on), values, 0.99))
    targets = torch.column_stack([wanted[0][:, 0], wanted[1][:, 1]]).detach()
    said = critics(batch.observations, batch.actions)
    for signal, loss_name in enumerate(("critic_loss", "cost_critic_loss")):
        loss = critic_loss(said[..., signal : signal + 1], targets[:, signal : signal + 1])
        assert loss.item() == pytest.approx(theirs[f"loss/{loss_name}"].item(), rel=1e-5)
    parts = [f"{kind}.{member}" for member in names_of(name) for kind in ("critic", "cost_critic")]
    expected = [theirs.layers(part, MLP, "gradient") for part in parts]
    assert_ensemble_gradients(critics.ensemble, critic_loss(said, targets), expected)


def test_the_multiplier_is_osrls_but_for_its_first_rise():
    theirs = Theirs("bcql")
    gains = BCQ_PRESETS["published"].multiplier
    batch = theirs.batch
    decoded = autoencoder_of(theirs).decode(batch.observations, theirs["draw/3"].clamp(-CODE_CLIP, CODE_CLIP))
    values = least(critics_of(theirs, "bcql")(batch.observations, perturbation_of(theirs)(batch.observations, decoded)))
    mean = values[:, 1].mean().item()
    ours = ScalarMultiplier(Limit("cost", float(THRESHOLD)), gains)
    ours.update(mean)
    # deviation: OSRL takes the first error for a rise from 0
    first = gains.derivative_gain * (mean - float(THRESHOLD))
    assert ours.value + first == pytest.approx(theirs["loss/lagrangian"].item(), rel=1e-5)


def test_bcq_lags_actor_has_the_same_loss_and_gradients():
    theirs = Theirs("bcql")
    batch, actor = theirs.batch, perturbation_of(theirs)
    decoded = autoencoder_of(theirs).decode(batch.observations, theirs["draw/3"].clamp(-CODE_CLIP, CODE_CLIP)).detach()
    values = least(critics_of(theirs, "bcql")(batch.observations, actor(batch.observations, decoded)))
    loss = -lagrangian(values, THRESHOLD, theirs["loss/lagrangian"].reshape(1).float()).mean()
    assert loss.item() == pytest.approx(theirs["loss/actor_loss"].item(), rel=1e-5)
    assert_gradients(actor.perceptron, loss, theirs.layers("actor.pi", MLP, "gradient"))


def test_bear_lags_actor_has_the_same_loss_and_gradients():
    theirs = Theirs("bearl")
    batch, actor, config = theirs.batch, actor_of(theirs), BEAR_PRESETS["published"]
    rows = batch.observations.repeat_interleave(DRAWN, dim=0)
    code = theirs["draw/3"].clamp(-CODE_CLIP, CODE_CLIP).reshape(12 * DRAWN, 4)
    logged = autoencoder_of(theirs).raw(rows, code).reshape(12, DRAWN, 2).detach()
    inner = actor(rows).inner
    ours = (inner.mean + torch.exp(inner.log_sd) * theirs["draw/4"]).reshape(12, DRAWN, 2)
    discrepancy = maximum_mean_discrepancy(logged, ours, config.kernel_width)
    assert discrepancy.mean().item() == pytest.approx(theirs["loss/mmd_loss"].item(), abs=1e-5)
    values = least(critics_of(theirs, "bearl")(batch.observations, torch.tanh(ours[:, 0])))
    gain = lagrangian(values, THRESHOLD, theirs["loss/lagrangian"].reshape(1).float()).mean()
    excess = discrepancy.mean() - config.discrepancy
    assert (excess - gain).item() == pytest.approx(theirs["loss/actor_loss"].item(), rel=1e-5)
    assert_gradients(actor.perceptron, excess - gain, theirs.layers("actor", ACTOR, "gradient"))
    alpha = LogMultiplier(1, config.dual_learning_rate)
    alpha.rise(excess.detach()[None])
    assert alpha.values.item() == pytest.approx(theirs["loss/alpha_value"].item(), abs=1e-6)


def cpq_actions(theirs, observations, draw):
    inner = actor_of(theirs)(observations).inner
    return torch.tanh(inner.mean + torch.exp(inner.log_sd) * theirs[f"draw/{draw}"])


def test_cpqs_critics_have_the_same_loss_and_gradients_with_osrls_unknown_actions():
    theirs = Theirs("cpq")
    batch, critics, slow = theirs.batch, critics_of(theirs, "cpq"), critics_of(theirs, "cpq", "_old")
    config = CPQ_PRESETS["osrl"]
    wanted = []
    for draw, goes_on in ((1, batch.goes_on), (2, torch.ones(12))):  # deviations: two draws, and costs without an end
        actions = cpq_actions(theirs, batch.next_observations, draw)
        values = least(slow(batch.next_observations, actions))
        wanted.append(penalised(replace(batch, goes_on=goes_on), values, THRESHOLD, 0.99))
    targets = torch.column_stack([wanted[0][:, 0], wanted[1][:, 1]]).detach()
    rows = batch.observations.repeat(DRAWN, 1)
    inner = actor_of(theirs)(rows).inner
    # deviation: OSRL takes no tanh of the actions among which it looks for unknown ones
    drawn = inner.mean + torch.exp(inner.log_sd) * theirs["draw/4"].reshape(12 * DRAWN, 2)
    unknown = furthest(divergence_from_prior(autoencoder_of(theirs).encode(rows, drawn)), config.unknown_share)
    assert 0 < unknown.sum() < len(unknown)
    cost = least(slow(rows[unknown], drawn[unknown]))[:, 1:].sum(dim=0).detach() / len(rows)
    wished = config.unknown_cost * THRESHOLD
    said = critics(batch.observations, batch.actions)
    reward = critic_loss(said[..., :1], targets[:, :1])
    assert reward.item() == pytest.approx(theirs["loss/critic_loss"].item(), rel=1e-5)
    both = penalised_critic_loss(said, targets, cost, wished, torch.ones(1))
    assert (both - reward).item() == pytest.approx(theirs["loss/cost_critic_loss"].item(), rel=1e-5)
    parts = [f"{kind}.{member}" for member in names_of("cpq") for kind in ("critic", "cost_critic")]
    assert_ensemble_gradients(critics.ensemble, both, [theirs.layers(part, MLP, "gradient") for part in parts])
    alpha = LogMultiplier(1, config.dual_learning_rate)
    alpha.rise(wished - cost)
    assert alpha.values.item() == pytest.approx(theirs["loss/alpha_value"].item(), abs=1e-6)


def test_cpqs_actor_has_the_same_loss_and_gradients():
    theirs = Theirs("cpq")
    batch, actor = theirs.batch, actor_of(theirs)
    inner = actor(batch.observations).inner
    actions = torch.tanh(inner.mean + torch.exp(inner.log_sd) * theirs["draw/6"])
    values = least(critics_of(theirs, "cpq")(batch.observations, actions))
    safe = within(values[:, 1:], THRESHOLD)
    assert 0 < safe.sum() < 12
    loss = -penalised_gain(values, safe, "ignored").mean()
    assert loss.item() == pytest.approx(theirs["loss/actor_loss"].item(), rel=1e-4)
    assert_gradients(actor.perceptron, loss, theirs.layers("actor", ACTOR, "gradient"))


@pytest.fixture
def dice():
    """OSRL's COptiDICE through our functions, as far as its weights w."""
    theirs = Theirs("coptidice")
    batch, config = theirs.batch, COptiDICEConfig(hidden=(8, 8), limits={"cost": LIMIT})
    nu = Ensemble(2, (5, 8, 8, 1), generator=generator())
    put_ensemble(nu, [theirs.layers(f"nu_network.q_nets.{i}", MLP) for i in range(2)])
    bound = CostBound(SPEC, config, generator())
    put_ensemble(bound.chi, [theirs.layers(f"chi_network.q_nets.{i}", MLP) for i in range(2)])
    here, there = nu(batch.observations).amin(dim=-1), nu(batch.next_observations).amin(dim=-1)
    multipliers = coptidice.Positive(1)().detach()
    error = coptidice.advantage(batch, here, there, multipliers, 0.99)
    starts = theirs["input/is_init"] / 0.25  # deviation: OSRL counts the first states that are in the batch
    weights = coptidice.correction(error, 0.5)
    return SimpleNamespace(**{k: v for k, v in locals().items() if k != "self"})


def test_nu_has_the_same_loss_and_gradients(dice):
    theirs, error, weights = dice.theirs, dice.error, dice.weights
    assert error.square().mean().item() == pytest.approx(theirs["loss/td_error"].item(), rel=1e-5)
    assert coptidice.soft_chi_square(weights).mean().item() == pytest.approx(theirs["loss/Df"].item(), rel=1e-5)
    loss = coptidice.nu_loss(dice.here * dice.starts, weights, error, 0.5, 0.99)
    assert loss.item() == pytest.approx(theirs["loss/nu_loss"].item(), rel=1e-5)
    expected = [theirs.layers(f"nu_network.q_nets.{i}", MLP, "gradient") for i in range(2)]
    assert_ensemble_gradients(dice.nu, loss, expected)


def test_the_cost_bound_is_osrls_less_its_divergence(dice):
    theirs, batch, fixed = dice.theirs, dice.batch, dice.weights.detach()
    here, there = dice.bound(batch.observations), dice.bound(batch.next_observations)
    surplus = coptidice.cost_surplus(batch, fixed, here, there, here * dice.starts[:, None], 0.99)
    tau = dice.bound.tau()
    assert tau.item() == pytest.approx(theirs["loss/tau"].item(), rel=1e-6)
    divergence = theirs["loss/D_kl"].item()
    # deviation: OSRL lowers E[tilt surplus], and through the tilt, too; the dual is tau log E[exp(surplus / tau)]
    bound = coptidice.upper_bound(surplus, tau, 0.0).item()
    assert bound + tau.item() * divergence == pytest.approx(theirs["loss/chi_loss"].item(), rel=1e-4)
    slope = torch.autograd.grad(coptidice.upper_bound(surplus.detach(), tau, 0.01).sum(), tau)[0].item()
    assert tau.item() * slope == pytest.approx(theirs["loss/tau_loss"].item(), rel=1e-4)
    cost = (coptidice.tilt(surplus, tau)[:, 0] * fixed * batch.costs[:, 0]).mean()
    osrl = float(
        coptidice.step_limits(SPEC, COptiDICEConfig(limits={"cost": LIMIT}, timeouts="terminal", threshold="osrl"))[0]
    )
    multiplier = theirs["loss/lmbda"].item()
    assert multiplier * (osrl - cost.item()) == pytest.approx(theirs["loss/lmbda_loss"].item(), rel=1e-4)


def test_weighted_cloning_has_the_same_loss_and_gradients(dice):
    theirs, batch, fixed = dice.theirs, dice.batch, dice.weights.detach()
    actor = actor_of(theirs)
    noisy = batch.observations + 0.1 * 0.7 * theirs["draw/0"]
    wanted = batch.actions + 0.1 * 0.4 * theirs["draw/1"]
    loss = coptidice.weighted_cloning(actor(noisy).inner, wanted, fixed)
    assert loss.item() == pytest.approx(theirs["loss/actor_loss"].item(), rel=1e-5)
    assert_gradients(actor.perceptron, loss, theirs.layers("actor", ACTOR, "gradient"))
