import numpy as np
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
