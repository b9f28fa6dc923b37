import numpy as np
import pytest
import torch
from scipy import integrate, stats

from safehold.nn.distributions import DiagonalGaussian, TanhGaussian
from safehold.nn.tensors import torch_generator

MEAN = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
LOG_SD = torch.tensor([-0.4, 0.2])


def test_density_and_entropy_are_those_of_scipy():
    x = torch.tensor([[0.1, 0.0], [1.0, 1.0]])
    gaussian = DiagonalGaussian(MEAN, LOG_SD)
    independent = stats.norm(MEAN.numpy(), LOG_SD.exp().numpy())
    np.testing.assert_allclose(gaussian.log_density(x).numpy(), independent.logpdf(x.numpy()).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(gaussian.entropy().numpy(), independent.entropy()[0].sum(), rtol=1e-5)


def test_divergence_is_the_mean_log_ratio():
    old = DiagonalGaussian(MEAN.double(), LOG_SD.double())
    new = DiagonalGaussian(MEAN.double() + 0.1, LOG_SD.double() + 0.3)
    many = DiagonalGaussian(MEAN.double().repeat(20_000, 1), LOG_SD.double())
    x = many.sample(torch_generator(0)).reshape(20_000, 2, 2)
    ratios = torch.stack([old.log_density(rows) - new.log_density(rows) for rows in x[:5_000]])
    np.testing.assert_allclose(ratios.mean(dim=0).numpy(), new.divergence_from(old).numpy(), atol=0.04)
    assert new.divergence_from(new).abs().max() == 0.0


def test_samples_have_mean_and_spread_of_the_distribution():
    gaussian = DiagonalGaussian(MEAN[:1].repeat(200_000, 1), LOG_SD)
    x = gaussian.sample(torch_generator(0))
    torch.testing.assert_close(x.mean(dim=0), MEAN[0], atol=0.01, rtol=0)
    torch.testing.assert_close(x.std(dim=0), LOG_SD.exp(), atol=0.01, rtol=0)


@pytest.mark.parametrize("mean", [0.0, 1.5])
def test_tanh_gaussian_density_integrates_to_one(mean):
    inner = stats.norm(mean, 0.7)

    def density(y: float) -> float:
        return inner.pdf(np.arctanh(y)) / (1 - y**2)

    squashed = TanhGaussian(DiagonalGaussian(torch.full((1000, 1), mean), torch.log(torch.tensor([0.7]))))
    y, log_density = squashed.sample_with_log_density(torch_generator(0))
    assert (y.abs() < 1).all()
    np.testing.assert_allclose(
        log_density.exp().numpy(), [density(float(entry)) for entry in y[:, 0].double()], rtol=2e-3
    )
    assert integrate.quad(density, -1, 1)[0] == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(squashed.mode(), torch.tanh(squashed.inner.mean))


def test_log_density_stays_finite_where_tanh_saturates():
    squashed = TanhGaussian(DiagonalGaussian(torch.full((100, 1), 20.0), torch.zeros(1)))
    _, log_density = squashed.sample_with_log_density(torch_generator(0))
    assert torch.isfinite(log_density).all()


def test_density_of_given_actions_is_that_of_what_was_drawn():
    squashed = TanhGaussian(DiagonalGaussian(MEAN.repeat(50, 1), LOG_SD))
    y, log_density = squashed.sample_with_log_density(torch_generator(0))
    np.testing.assert_allclose(squashed.log_density(y).numpy(), log_density.numpy(), rtol=1e-3, atol=1e-3)


def test_density_at_the_bounds_is_that_just_inside():
    squashed = TanhGaussian(DiagonalGaussian(torch.zeros(2, 1), torch.zeros(1)))
    edges = squashed.log_density(torch.tensor([[1.0], [-1.0]]))
    assert torch.isfinite(edges).all()
    assert torch.equal(edges, squashed.log_density(torch.tensor([[1.0 - 1e-6], [-1.0 + 1e-6]])))
