import torch

from safehold.nn.actors import DeterministicActor, GaussianActor, TanhGaussianActor
from safehold.nn.tensors import torch_generator

SEEN = 1e3 * torch.randn((6, 4), generator=torch_generator(1))


def test_actions_stay_within_their_bounds():
    deterministic = DeterministicActor(4, 2, (8,), generator=torch_generator(0))
    squashed = TanhGaussianActor(4, 2, (8,), log_sd_range=(-20.0, 2.0), generator=torch_generator(0))
    drawn, _ = squashed(SEEN).sample_with_log_density(torch_generator(0))
    for actions in (deterministic(SEEN), squashed(SEEN).mode(), drawn):
        assert actions.shape == (6, 2)
        assert actions.abs().max() <= 1.0


def test_spreads_stay_within_their_range():
    squashed = TanhGaussianActor(4, 2, (8,), log_sd_range=(-3.0, 1.0), generator=torch_generator(0))
    log_sd = squashed(1e6 * SEEN).inner.log_sd
    assert log_sd.min() >= -3.0
    assert log_sd.max() <= 1.0
    plain = GaussianActor(4, 2, (8,), log_sd_range=(-3.0, 1.0), generator=torch_generator(0))
    with torch.no_grad():
        plain.log_sd.copy_(torch.tensor([-9.0, 9.0]))
    assert plain(SEEN).log_sd.tolist() == [-3.0, 1.0]
    assert plain(SEEN).mean.abs().max() <= 1.0
