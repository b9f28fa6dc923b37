"""What the losses of CCAC's authors are, for a test that ours are the same.

    python tests/unit/learn/ccac_authors.py --checkout CHECKOUT/OSRL [--out tests/data/ccac-authors.npz]

Needs a checkout of github.com/BU-DEPEND-Lab/CCAC (Apache-2.0; kept: commit 4707c1f) and torch; what it imports for
logging is stood in for. Small networks with random weights and one random batch; one training step with step sizes of
zero. Kept are the batch, what every network answered, in the order in which it was asked, and the losses that the step
reports.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "peers"))
from osrl_peer import Log, osrl

OBSERVATIONS, ACTIONS, BATCH = 5, 2, 16
DOUBT = 0.705
"""Probability above which a pair is doubted: some are, with these weights, and some are not."""


def answers(checkout: Path) -> dict[str, np.ndarray]:
    """Batch, answers and losses."""
    torch.manual_seed(0)
    module = osrl(checkout, "ccac")
    model = module.CCAC(
        OBSERVATIONS,
        ACTIONS,
        1.0,
        np.full(OBSERVATIONS, -2.0, np.float32),
        np.full(OBSERVATIONS, 2.0, np.float32),
        a_hidden_sizes=[8, 8],
        c_hidden_sizes=[8, 8],
        vae_hidden_sizes=8,
        vae_latent_sizes=3,
        beta=0.5,
        ood_threshold=DOUBT,
        num_q=2,
        num_qc=2,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)  # larger than at the start, so that every part bears on the losses
    trainer = module.CCACTrainer(model, None, logger=Log(), actor_lr=0.0, critic_lr=0.0, vae_lr=0.0)
    batch = {
        "observations": torch.randn(BATCH, OBSERVATIONS),
        "next_observations": torch.randn(BATCH, OBSERVATIONS),
        "actions": torch.rand(BATCH, ACTIONS) * 1.8 - 0.9,
        "rewards": torch.randn(BATCH),
        "costs": (torch.rand(BATCH) < 0.4).float() * 1.5,
        "cost_thresholds": torch.rand(BATCH) * 4.0,
        "next_cost_thresholds": torch.rand(BATCH) * 4.0,
        "done": (torch.rand(BATCH) < 0.25).float(),
    }
    kept = {f"input/{key}": value for key, value in batch.items()}
    for part, method in (
        ("cvae", "forward"),
        ("classifier", "forward"),
        ("critic", "predict"),
        ("critic_old", "predict"),
        ("cost_critic", "predict"),
        ("cost_critic_old", "predict"),
        ("qc_lag", "forward"),
        ("actor_lag", "forward"),
    ):
        listen(getattr(model, part), method, part, kept)
    trainer.train_one_step_cvae(**batch)
    kept |= {f"loss/{name.removeprefix('loss/')}": torch.tensor(value) for name, value in trainer.logger.kept.items()}
    for name in ("qc_lag", "actor_lag"):
        kept[f"size/{name}"] = sum(torch.norm(parameter) ** 2 for parameter in getattr(model, name).parameters())
    return {key: value.detach().numpy() for key, value in kept.items()}


def listen(part: Any, method: str, name: str, kept: dict[str, torch.Tensor]) -> None:
    """Keeps a copy of everything that a part answers, as NAME/CALL/PLACE."""
    plain, calls = getattr(part, method), iter(range(100))

    def heard(*said: Any, **named: Any) -> Any:
        answer, call = plain(*said, **named), next(calls)
        if method == "predict":
            tensors = [answer[0], torch.stack(answer[1])]
        else:
            tensors = list(answer) if isinstance(answer, tuple) else [answer]
        kept.update({f"{name}/{call}/{place}": each.detach().clone() for place, each in enumerate(tensors)})
        return answer

    setattr(part, method, heard)


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("tests/data/ccac-authors.npz"))
    arguments = parser.parse_args()
    np.savez_compressed(arguments.out, **answers(arguments.checkout))


if __name__ == "__main__":
    main()
