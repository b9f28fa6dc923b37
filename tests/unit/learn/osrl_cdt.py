"""What OSRL's own decision transformer answers, for a test that ours answers the same.

    python tests/unit/learn/osrl_cdt.py --osrl CHECKOUT [--out tests/data/osrl-cdt.npz]

Needs a checkout of github.com/liuzuxin/OSRL (Apache-2.0; kept: commit 03a4586) and torch; of OSRL only the network and
its trainer are imported, what they import for logging is stood in for. Small networks with random weights, one with the
Gaussian head and one with the deterministic one; random windows without padding, costs of zero and one. Kept are
weights, inputs, outputs, and the losses that one training step reports.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "peers"))
from osrl_peer import Log, osrl

SIZES = {"state_dim": 5, "action_dim": 2, "seq_len": 6, "episode_len": 30, "embedding_dim": 16, "num_layers": 2}
HEADS, BATCH = 4, 12
COST_WEIGHT, STATE_WEIGHT = 0.02, 0.3


def answers(module: Any, *, stochastic: bool) -> dict[str, np.ndarray]:
    """Weights, inputs, outputs and losses."""
    torch.manual_seed(0)
    model = module.CDT(
        **SIZES,
        max_action=1.0,
        num_heads=HEADS,
        use_rew=True,
        use_cost=True,
        cost_transform=True,
        stochastic=stochastic,
        target_entropy=-SIZES["action_dim"],
    )
    for parameter in model.parameters():  # larger than at the start, so that every part bears on the outputs
        torch.nn.init.normal_(parameter, std=0.3)
    size, context = (BATCH, SIZES["seq_len"]), SIZES["seq_len"]
    first = torch.randint(SIZES["episode_len"] - context, (BATCH, 1))
    inputs = {
        "states": torch.randn(*size, SIZES["state_dim"]),
        "actions": torch.rand(*size, SIZES["action_dim"]) * 2 - 1,
        "returns": torch.randn(size) * 3,
        "costs_return": torch.randint(60, size).float(),
        "time_steps": first + torch.arange(context),
        "costs": (torch.rand(size) < 0.3).float(),
    }
    kept = {
        f"weight/{name}": value.detach().clone() for name, value in model.state_dict().items() if "mask" not in name
    }
    actions, costs, states = model(
        inputs["states"], inputs["actions"], inputs["returns"], inputs["costs_return"], inputs["time_steps"]
    )
    outputs = {"cost_log_probabilities": costs, "next_states": states}
    outputs |= {"mean": actions.mean, "sd": actions.stddev} if stochastic else {"mean": actions}
    log = Log()
    trainer = module.CDTTrainer(
        model, None, logger=log, loss_cost_weight=COST_WEIGHT, loss_state_weight=STATE_WEIGHT, clip_grad=None
    )
    trainer.train_one_step(**inputs, mask=torch.ones(size), episode_cost=torch.zeros(BATCH))
    kept |= {f"input/{name}": value for name, value in inputs.items()}
    kept |= {f"output/{name}": value.detach() for name, value in outputs.items()}
    kept |= {f"loss/{name}": torch.tensor(value) for name, value in log.kept.items()}
    return {name: value.numpy() for name, value in kept.items()}


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--osrl", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("tests/data/osrl-cdt.npz"))
    arguments = parser.parse_args()
    module = osrl(arguments.osrl)
    both = {"gaussian": answers(module, stochastic=True), "deterministic": answers(module, stochastic=False)}
    arrays = {f"{head}/{name}": array for head, found in both.items() for name, array in found.items()}
    np.savez_compressed(arguments.out, **arrays)


if __name__ == "__main__":
    main()
