"""Our decision transformer beside OSRL's: the same answers with the same weights, the same losses but for units."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from safehold.cli.settings import from_file
from safehold.core.spec import Box, TaskSpec
from safehold.data.augment import Augmentation
from safehold.data.dataset import OfflineDataset
from safehold.learn.offline.cdt import PRESETS, action_losses, cost_cross_entropy, squared_error
from safehold.learn.offline.cdt_network import CDTConfig, CDTNetwork, Inputs
from safehold.learn.offline.dial import scales_of, windows
from safehold.learn.offline.scales import Scales
from safehold.nn.distributions import DiagonalGaussian

FILE = Path("tests/data/osrl-cdt.npz")
SPEC = TaskSpec(env_id="test/OSRL", observation_size=5, action=Box(low=(-1.0, -1.0), high=(1.0, 1.0)), horizon=30)
BLOCK = {
    "attention_norm": "norm1",
    "perceptron_norm": "norm2",
    "query_key_value": "attention.in_proj",
    "attention_output": "attention.out_proj",
    "perceptron_in": "mlp.0",
    "perceptron_out": "mlp.2",
}
WHOLE = {
    "embed_observation": "state_emb",
    "embed_action": "action_emb",
    "embed_reward_to_go": "return_emb",
    "embed_cost_to_go.0": "cost_emb",
    "embedding_norm": "emb_norm",
    "transformer.norm": "out_norm",
    "next_observation": "state_pred_head",
}


@pytest.fixture(params=["gaussian", "deterministic"])
def theirs(request):
    with np.load(FILE, allow_pickle=False) as file:
        found = {name: torch.from_numpy(file[name]) for name in file if name.startswith(request.param)}
    return request.param, {name.removeprefix(f"{request.param}/"): value for name, value in found.items()}


def ours(head, found):
    """Our network with OSRL's weights."""
    config = CDTConfig(width=16, layers=2, heads=4, context=6, dropout=0.0, head=head, observation_loss_weight=0.3)
    network = CDTNetwork(SPEC, config)

    def both(name, their):
        joint = "_" if their.endswith("in_proj") else "."
        return {f"{name}.{part}": found[f"weight/{their}{joint}{part}"] for part in ("weight", "bias")}

    weights = {"embed_step.weight": found["weight/timestep_emb.weight"][:30]}  # theirs has rows for padding
    for name, their in WHOLE.items():
        weights |= both(name, their)
    for i in range(2):
        for name, their in BLOCK.items():
            weights |= both(f"transformer.blocks.{i}.{name}", f"blocks.{i}.{their}")
    weights |= both("action_mean", "action_head.mu" if head == "gaussian" else "action_head.0")
    if head == "gaussian":
        weights |= both("action_log_sd", "action_head.log_std")
    for part in ("weight", "bias"):  # two classes there, one logit here
        no, yes = found[f"weight/cost_pred_head.{part}"]
        weights[f"cost.{part}"] = (yes - no)[None]
    missing = network.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) - {"action_log_sd.weight", "action_log_sd.bias"} == {"log_temperature"}
    inputs = Inputs(
        found["input/returns"][..., None],
        (50.0 - found["input/costs_return"][..., None],),  # their constant of the tasks, in the network
        found["input/states"],
        found["input/actions"],
        found["input/time_steps"],
    )
    return network.eval(), inputs


def test_the_same_weights_and_inputs_give_the_same_outputs(theirs):
    head, found = theirs
    network, inputs = ours(head, found)
    with torch.no_grad():
        answered = network(inputs)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(answered.action_mean, found["output/mean"], **close)
    torch.testing.assert_close(answered.next_observations, found["output/next_states"], **close)
    log_no, log_yes = found["output/cost_log_probabilities"].unbind(-1)
    torch.testing.assert_close(answered.costs[..., 0], log_yes - log_no, **close)
    if head == "gaussian":
        sd = found["output/sd"].clamp(np.exp(-5.0), np.exp(2.0))  # deviation: their bounds are declared, and unused
        torch.testing.assert_close(answered.action_log_sd.exp(), sd, **close)
        assert (sd == found["output/sd"]).float().mean() > 0.9


def test_the_same_batch_gives_the_same_losses_but_for_units(theirs):
    head, found = theirs
    network, inputs = ours(head, found)
    with torch.no_grad():
        answered = network(inputs)
    every, entries = torch.ones(12, 6, dtype=torch.bool), 2
    if head == "gaussian":
        # deviation: density and entropy are those of the whole action, theirs are means over its entries
        gaussian = DiagonalGaussian(answered.action_mean[every], answered.action_log_sd[every])
        alpha = found["loss/ent_reg"]
        action, temperature, entropy = action_losses(gaussian, inputs.actions[every], torch.log(alpha))
        assert float(action) / entries == pytest.approx(float(found["loss/act_loss"]), abs=1e-5)
        assert float(entropy) / entries == pytest.approx(float(found["loss/ent"]), abs=1e-5)
        assert float(temperature) == pytest.approx(float(alpha) * (float(entropy) + entries), abs=1e-5)
        # the preset "osrl" takes means as well
        action, temperature, entropy = action_losses(gaussian, inputs.actions[every], torch.log(alpha), per_entry=True)
        assert float(action) == pytest.approx(float(found["loss/act_loss"]), abs=1e-5)
        assert float(temperature) == pytest.approx(float(alpha) * (float(found["loss/ent"]) + entries), abs=1e-5)
    else:
        action = squared_error(answered.action_mean, inputs.actions, every)
        assert float(action) == pytest.approx(float(found["loss/act_loss"]), abs=1e-5)
    cost = cost_cross_entropy(answered.costs, found["input/costs"][..., None], every)
    assert float(cost) == pytest.approx(float(found["loss/cost_loss"]), abs=1e-5)
    # deviation: the last step of a window has a next observation too; theirs ends one before
    before_last = every.clone()
    before_last[:, -1] = False
    seen = torch.cat([inputs.observations[:, 1:], inputs.observations[:, -1:]], dim=1)
    observation = squared_error(answered.next_observations, seen, before_last)
    assert float(observation) == pytest.approx(float(found["loss/state_loss"]), abs=1e-5)


def log_of_forty():
    rng = np.random.default_rng(0)
    return OfflineDataset(
        spec=SPEC,
        observations=rng.normal(size=(40 * 21, 5)).astype(np.float32),
        actions=rng.uniform(-1, 1, size=(800, 2)).astype(np.float32),
        rewards=rng.normal(size=800),
        costs=rng.uniform(0.5, 1.0, size=(800, 1)),
        offsets=np.arange(0, 801, 20),
        terminated=np.zeros(40, dtype=np.bool_),
    )


def test_the_preset_scales_and_samples_as_osrl_does():
    config = PRESETS["osrl"]
    dataset = log_of_forty()
    scales = scales_of(dataset, config, Augmentation.none(1))
    rewards, costs = np.array([[3.0]]), np.array([[[7.0]]])
    reward, cost = scales.to_go(rewards, costs, np.array([[0]]))
    assert reward.item() == pytest.approx(0.3)
    assert cost.item() == pytest.approx(-(50.0 - 7.0))
    np.testing.assert_array_equal(scales.observations.apply(dataset.observations), dataset.observations)
    again = Scales.of_json(json.loads(json.dumps(scales.to_json())), dataset.spec, config.to_go_features)
    assert again.to_go(rewards, costs, np.array([[0]]))[1].item() == cost.item()
    dear = replace(dataset, costs=dataset.costs * np.where(np.repeat(np.arange(40), 20) < 20, 100.0, 1.0)[:, None])
    batch = windows(dear, config, 1).sample(np.random.default_rng(0))
    drawn = {tuple(action) for action in batch.actions[:, 0].tolist()}
    assert (dear.cost_returns[:20] > 70).all()
    assert drawn <= {tuple(action) for action in dear.actions[400:].tolist()}


@pytest.mark.parametrize("path", sorted(Path("presets/osrl").glob("*.toml")), ids=lambda path: path.stem)
def test_the_settings_of_every_task_fit_the_preset(path):
    config = from_file(PRESETS["osrl"], path)
    assert config.augmentation == 0.2
    assert config.frontier_top is not None
