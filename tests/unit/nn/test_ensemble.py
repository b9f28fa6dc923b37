import numpy as np
import pytest
import torch

from safehold.nn.ensemble import Critics, Ensemble
from safehold.nn.tensors import torch_generator


def test_every_column_is_a_perceptron_of_its_own():
    ensemble = Ensemble(3, (4, 6, 5, 1), generator=torch_generator(0))
    with torch.no_grad():
        for parameter in ensemble.parameters():
            parameter.normal_(generator=torch_generator(1))
    inputs = torch.randn((7, 4), generator=torch_generator(2))
    said = ensemble(inputs).detach().numpy()
    assert said.shape == (7, 3)
    for member in range(3):
        x = inputs.numpy()
        for place, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
            x = (np.maximum(x, 0.0) if place else x) @ weight[member].detach().numpy() + bias[member].detach().numpy()
        np.testing.assert_allclose(said[:, member], x[:, 0], rtol=1e-4, atol=1e-5)


def test_a_member_that_is_not_asked_gets_no_gradient():
    critics = Critics(3, 2, members=2, signals=3, hidden=(8,), generator=torch_generator(0))
    said = critics(torch.ones(5, 3), torch.ones(5, 2))
    assert said.shape == (5, 2, 3)
    torch.autograd.backward(said[:, 1, 2].sum())
    moved = [bool(critics.ensemble.weights[0].grad[member].abs().sum() > 0) for member in range(6)]
    assert moved == [False] * 5 + [True]


@pytest.mark.parametrize("asked", ["all", "inputs", "weights"])
def test_the_least_of_members_is_autograds(asked):
    ensemble = Ensemble(6, (4, 9, 7, 1), generator=torch_generator(0))  # three members of two signals
    with torch.no_grad():
        for parameter in ensemble.parameters():
            parameter.normal_(generator=torch_generator(1))
    inputs = torch.randn((40, 4), generator=torch_generator(2), requires_grad=asked != "weights")
    wanted = [parameter for parameter in ensemble.parameters() if asked != "inputs"] + [inputs] * (asked != "weights")
    weights = torch.randn((40, 2), generator=torch_generator(3))
    quick = ensemble.least(inputs, 3)
    plain = ensemble(inputs).view(40, 3, 2).amin(dim=1)
    assert torch.equal(quick, plain)
    found = torch.autograd.grad((weights * quick.square()).sum(), wanted)
    expected = torch.autograd.grad((weights * plain.square()).sum(), wanted)
    assert all(float(gradient.abs().sum()) > 0 for gradient in expected)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(ensemble.least(inputs, 3), plain)
    if asked != "weights":
        (alone,) = torch.autograd.grad((weights * ensemble.least(inputs, 3, learn=False).square()).sum(), [inputs])
        torch.testing.assert_close(alone, found[-1])
    assert ensemble.least(inputs[:0], 3).shape == (0, 2)
