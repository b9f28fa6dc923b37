import torch
from torch import nn

from safehold.nn.mlp import linear_layers, mlp
from safehold.nn.tensors import torch_generator


def test_computes_layers_with_the_activation_between_them():
    network = mlp((3, 5, 2), generator=torch_generator(0))
    first, last = linear_layers(network)
    x = torch.randn(4, 3, generator=torch_generator(1))
    expected = torch.tanh(x @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(network(x), expected)


def test_weights_start_orthogonal_with_their_gain_and_biases_at_zero():
    hidden, last = linear_layers(mlp((6, 6, 6), generator=torch_generator(0), output_gain=0.01))
    torch.testing.assert_close(hidden.weight @ hidden.weight.T, 2.0 * torch.eye(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(6), atol=1e-9, rtol=0)
    assert not any(layer.bias.any() for layer in (hidden, last))


def test_one_seed_gives_one_network_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second = (mlp((3, 4, 1), generator=torch_generator(7)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_network_without_hidden_layers_is_linear():
    network = mlp((4, 2), generator=torch_generator(0), activation=nn.ReLU)
    assert [type(layer) for layer in network] == [nn.Linear]
    assert torch.equal(network(torch.zeros(1, 4)), torch.zeros(1, 2))
