import shutil
from pathlib import Path

import numpy as np
import pytest

from safehold.core.config import Config
from safehold.core.errors import DataError, IntegrityError, UsageError
from safehold.core.policy import Policy, PolicyFamily
from safehold.core.spec import Box, TaskSpec
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.learn.checkpoint import load_checkpoint
from safehold.learn.hooks import stop_when
from safehold.learn.offline.bc import BCConfig
from safehold.learn.offline.bcq_lag import BCQLagConfig
from safehold.learn.offline.bear_lag import BEARLagConfig
from safehold.learn.offline.caps import CAPSConfig
from safehold.learn.offline.ccac import CCACConfig
from safehold.learn.offline.cdt_network import CDTConfig
from safehold.learn.offline.coptidice import COptiDICEConfig
from safehold.learn.offline.cpq import CPQConfig
from safehold.learn.offline.iql import IQLConfig
from safehold.learn.offline.lspc import LSPCConfig
from safehold.learn.offline.rvs import RvSConfig
from safehold.workflows.train import METHODS, load, preset, train

BC = BCConfig(hidden=(8,), batch_size=16, steps=9)
CDT = CDTConfig(width=8, layers=1, heads=2, context=3, batch_size=8, steps=9, dropout=0.1)
RVS = RvSConfig(hidden=(8,), batch_size=8, steps=9, dropout=0.1)
IQL = IQLConfig(hidden=(8,), batch_size=8, steps=9)
CAPS = CAPSConfig(hidden=(8,), batch_size=8, steps=9)
CCAC = CCACConfig(hidden=(8,), side_hidden=(8,), latent=2, warm_up=2, batch_size=8, steps=9)
LSPC = LSPCConfig(hidden=(8,), latent=2, batch_size=8, steps=9)
LIMITED = {"limits": {"cost": 3.0}, "hidden": (8,), "batch_size": 8, "steps": 9}
CODED = {**LIMITED, "autoencoder_hidden": (8,), "candidates": 2}
CONFIGS: dict[str, Config] = {
    "bc": BC,
    "cdt": CDT,
    "rvs": RVS,
    "iql": IQL,
    "caps": CAPS,
    "ccac": CCAC,
    "lspc": LSPC,
    "bcq-lag": BCQLagConfig(**CODED, acting_candidates=3),
    "bear-lag": BEARLagConfig(**CODED, matched=2),
    "cpq": CPQConfig(**CODED),
    "coptidice": COptiDICEConfig(**LIMITED, starts=4),
}


@pytest.fixture(scope="module")
def data() -> OfflineDataset:
    rng = np.random.default_rng(0)
    return OfflineDataset(
        spec=TaskSpec(env_id="toy/Noise", observation_size=2, action=Box((-1.0,), (1.0,)), horizon=10),
        observations=rng.standard_normal((66, 2)).astype(np.float32),
        actions=rng.uniform(-1, 1, (60, 1)).astype(np.float32),
        rewards=rng.standard_normal(60),
        costs=(rng.random((60, 1)) < 0.5).astype(np.float64),
        offsets=np.arange(0, 61, 10),
        terminated=np.zeros(6, dtype=np.bool_),
    )


@pytest.mark.parametrize("method", sorted(METHODS))
class TestEveryMethod:
    def test_trains_from_a_file_into_a_policy_that_loads(
        self, method: str, data: OfflineDataset, tmp_path: Path
    ) -> None:
        hdf5.write(tmp_path / "episodes.h5", data)
        trained = train(tmp_path / "episodes.h5", method, CONFIGS[method], tmp_path / "run", seed=3)
        assert trained.updates == 9
        assert trained.policy == tmp_path / "run" / "policy"
        learnt = load(trained.policy, expected_digest=trained.digest)
        policy = learnt.at((1.0,) * len(learnt.target_names)) if isinstance(learnt, PolicyFamily) else learnt
        assert isinstance(policy, Policy)
        actions = policy.start(2, np.random.default_rng(0)).act(np.zeros((2, 2), dtype=np.float32))
        assert actions.shape == (2, 1)

    def test_interrupted_and_resumed_gives_the_same_bytes(
        self, method: str, data: OfflineDataset, tmp_path: Path
    ) -> None:
        config = CONFIGS[method]
        unbroken = train(data, method, config, tmp_path / "unbroken", seed=3, checkpoint_every=4)
        stop = stop_when(lambda progress: progress.updates >= 6)
        broken = train(data, method, config, tmp_path / "broken", seed=3, checkpoint_every=4, hooks=[stop])
        assert (broken.updates, broken.policy) == (6, None)
        resumed = train(data, method, config, tmp_path / "broken", seed=3, checkpoint_every=4, resume=True)
        assert resumed.digest == unbroken.digest

    def test_a_run_killed_before_its_first_checkpoint_starts_again(
        self, method: str, data: OfflineDataset, tmp_path: Path
    ) -> None:
        (tmp_path / "run").mkdir()
        again = train(data, method, CONFIGS[method], tmp_path / "run", seed=3, resume=True)
        assert again.digest == train(data, method, CONFIGS[method], tmp_path / "other", seed=3).digest

    def test_another_seed_learns_another_policy(self, method: str, data: OfflineDataset, tmp_path: Path) -> None:
        first, second = (train(data, method, CONFIGS[method], tmp_path / str(s), seed=s).policy for s in (1, 2))
        tensors = [load_checkpoint(path).tensors for path in (first, second) if path is not None]
        assert any(not np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[0])

    def test_the_policy_says_where_it_came_from(self, method: str, data: OfflineDataset, tmp_path: Path) -> None:
        trained = train(data, method, CONFIGS[method], tmp_path / "run", seed=3)
        assert trained.policy is not None
        provenance = load_checkpoint(trained.policy).meta["provenance"]
        assert provenance == {
            "method": method,
            "config": CONFIGS[method].to_json(),
            "seed": 3,
            "dataset": data.digest,
        }


class TestRefusals:
    @pytest.fixture
    def broken(self, data: OfflineDataset, tmp_path: Path) -> Path:
        stop = stop_when(lambda progress: progress.updates >= 5)
        train(data, "bc", BC, tmp_path / "run", seed=3, checkpoint_every=4, hooks=[stop])
        return tmp_path / "run"

    def test_an_existing_directory_needs_resume(self, data: OfflineDataset, broken: Path) -> None:
        with pytest.raises(UsageError, match="resume the training in it"):
            train(data, "bc", BC, broken, seed=3)

    def test_a_finished_training_is_never_touched(self, data: OfflineDataset, tmp_path: Path) -> None:
        train(data, "bc", BC, tmp_path / "run", seed=3)
        for resume in (False, True):
            with pytest.raises(UsageError, match="finished"):
                train(data, "bc", BC, tmp_path / "run", seed=3, resume=resume)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"seed": 4}, "trained with seed 3, this run has 4"),
            ({"config": BC.model_copy(update={"learning_rate": 0.1})}, "trained with config"),
            ({"method": "cdt", "config": CDT}, "trained with method 'bc'"),
        ],
    )
    def test_resuming_as_something_else_is_refused(
        self, data: OfflineDataset, broken: Path, change: dict[str, object], message: str
    ) -> None:
        arguments = {"method": "bc", "config": BC, "seed": 3, **change}
        with pytest.raises(DataError, match=message):
            train(data, directory=broken, resume=True, **arguments)

    def test_resuming_with_other_data_is_refused(self, data: OfflineDataset, broken: Path) -> None:
        other = OfflineDataset.of([data.episode(i) for i in range(5)], data.spec)
        with pytest.raises(DataError, match="trained with dataset"):
            train(other, "bc", BC, broken, seed=3, resume=True)

    def test_a_changed_checkpoint_is_refused(self, data: OfflineDataset, broken: Path) -> None:
        path = broken / "checkpoints" / "00000004" / "tensors.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
        with pytest.raises(IntegrityError, match="cut or changed"):
            train(data, "bc", BC, broken, seed=3, resume=True)

    def test_weights_alone_are_no_training_to_resume(self, data: OfflineDataset, broken: Path, tmp_path: Path) -> None:
        train(data, "bc", BC, tmp_path / "other", seed=3)
        shutil.rmtree(broken / "checkpoints" / "00000004")
        shutil.copytree(tmp_path / "other" / "policy", broken / "checkpoints" / "00000004")
        with pytest.raises(DataError, match="not a training to go on with"):
            train(data, "bc", BC, broken, seed=3, resume=True)

    def test_a_training_checkpoint_is_no_policy(self, broken: Path) -> None:
        with pytest.raises(DataError, match=r"holds a 'training', not a policy of one of \['bc', 'bcq-lag', .*'rvs'\]"):
            load(broken / "checkpoints" / "00000004")

    def test_unknown_methods_presets_and_foreign_configurations(self, data: OfflineDataset, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"no method 'cdtt'; there are \['bc', 'bcq-lag', .*'rvs'\]"):
            train(data, "cdtt", BC, tmp_path / "run", seed=0)
        with pytest.raises(UsageError, match="takes a CDTConfig, got a BCConfig"):
            train(data, "cdt", BC, tmp_path / "run", seed=0)
        with pytest.raises(UsageError, match="no preset 'tiny'"):
            preset("cdt", "tiny")
        assert not (tmp_path / "run").exists()

    def test_presets_are_found_by_name(self) -> None:
        assert isinstance(preset("bc", "small"), BCConfig)


def test_loading_another_policy_than_the_pinned_one_is_refused(data: OfflineDataset, tmp_path: Path) -> None:
    first, second = (train(data, "bc", BC, tmp_path / str(seed), seed=seed) for seed in (1, 2))
    assert first.policy is not None
    with pytest.raises(IntegrityError, match="pinned"):
        load(first.policy, expected_digest=second.digest)
