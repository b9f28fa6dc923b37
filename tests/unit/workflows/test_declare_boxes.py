"""A deployment that tunes a latent box: what is declared, and what it may hand out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from safehold.core.errors import UsageError
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.deploy.optimizer import Deployment
from safehold.deploy.verify import verify
from safehold.envs.toy import rain
from safehold.testing.rain_log import mixed_log
from safehold.workflows.deploy import DeployConfig, Oversight, declare_boxes, drive

BOXES = tuple(np.linspace(0.1, 2.0, 20).tolist())
ATTESTED = Oversight(seed_by="an operator")


@dataclass(frozen=True)
class Boxes:
    """The wider the box, the faster: costs rise with it, and rewards."""

    target_names: tuple[str, ...] = ("epsilon",)

    def at(self, target: tuple[float, ...]) -> rain.Habit:
        return rain.habit(1.0 + target[0], 1.2 * target[0], 0.1)


@pytest.fixture(scope="module")
def log() -> OfflineDataset:
    return mixed_log(20, 0)


@pytest.mark.parametrize(
    ("boxes", "oversight"), [((0.5,), ATTESTED), ((0.1, 0.5), Oversight())], ids=["one box", "nobody answers"]
)
def test_what_cannot_be_declared_is_refused(
    log: OfflineDataset, boxes: tuple[float, ...], oversight: Oversight
) -> None:
    with pytest.raises(UsageError, match="give two boxes or more"):
        declare_boxes(log, boxes, DeployConfig(limit=6.0), oversight)


def test_the_smallest_box_is_the_seed_and_the_only_one_certified_beforehand(log: OfflineDataset) -> None:
    declared = declare_boxes(log, BOXES, DeployConfig(limit=6.0), ATTESTED)
    assert declared.seed_targets == ((0.1,),)
    assert declared.space.names == ("epsilon",)
    assert declared.prior.costs["cost"].mean[-1] == pytest.approx(1.5 * 6.0)


def test_wider_boxes_are_reached_and_none_over_the_limit(log: OfflineDataset, tmp_path: Path) -> None:
    limit, family = 10.0, Boxes()
    declared = declare_boxes(log, BOXES, DeployConfig(limit=limit, iterations=12, dial_error=0.25), ATTESTED)
    run = {"policy_digest": "habits", "provenance": {}, "seed_rule": "attested", "seed_evidence": {}}
    with Deployment.create(tmp_path / "run", declared, **run) as deployment:
        drive(deployment, "toy/Rain", family, streams=Streams(0))
        asked = [deployment.state.trial(name).target for name in deployment.state.asked]
        best = deployment.recommend().target
    costs = [rain.expected_returns(family.at(target).chances)[1] for target in asked]
    assert max(costs) <= limit
    gained = [rain.expected_returns(family.at(target).chances)[0] for target in ((0.1,), best)]
    assert gained[1] > gained[0] + 3.0
    assert verify(tmp_path / "run") == []
