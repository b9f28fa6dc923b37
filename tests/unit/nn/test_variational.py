import torch
from torch.distributions import Normal, kl_divergence

from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.tensors import torch_generator
from safehold.nn.variational import LOG_SD_RANGE, ConditionalAutoencoder, divergence_from_prior


def test_divergence_from_the_prior_is_that_of_torch():
    mean, log_sd = (torch.randn((6, 4), generator=torch_generator(seed)) for seed in (0, 1))
    wanted = kl_divergence(Normal(mean, log_sd.exp()), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(divergence_from_prior(DiagonalGaussian(mean, log_sd)), wanted)


def test_codes_are_of_a_bounded_spread_and_actions_within_theirs():
    autoencoder = ConditionalAutoencoder(3, 2, 5, (8, 8), generator=torch_generator(0))
    far = 1e4 * torch.randn((9, 3), generator=torch_generator(1))
    code = autoencoder.encode(far, torch.ones(9, 2))
    assert code.mean.shape == code.log_sd.shape == (9, 5)
    assert code.log_sd.min() >= LOG_SD_RANGE[0]
    assert code.log_sd.max() <= LOG_SD_RANGE[1]
    assert autoencoder.decode(far, 1e4 * torch.ones(9, 5)).abs().max() <= 1.0


def test_decodes_many_codes_of_one_observation():
    autoencoder = ConditionalAutoencoder(3, 2, 5, (8,), generator=torch_generator(0))
    seen = torch.randn((4, 3), generator=torch_generator(1))
    codes = torch.randn((4, 10, 5), generator=torch_generator(2))
    together = autoencoder.decode(seen[:, None].expand(-1, 10, -1), codes)
    torch.testing.assert_close(together[:, 7], autoencoder.decode(seen, codes[:, 7]))
