"""Every kernel keeps the contract: alone, and as a product of any factors, contexts included."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safehold.gp.kernels import Factor, Matern52, Product, SquaredExponential
from safehold.testing.kernel_contract import KernelContract

UNEVEN = (np.array([0.0, 0.1, 0.5, 2.0, 7.0]), np.array([-3.0, 0.0, 1e-3, 40.0]))
CONTEXTS = np.array([0.0, 1.0, 2.0])
CONTRACT = [name for name in vars(KernelContract) if name.startswith("test_")]


class TestSquaredExponential(KernelContract):
    def kernel(self):
        return SquaredExponential(3.0, (0.7, 12.0))

    def axes(self):
        return UNEVEN


class TestMatern52(KernelContract):
    def kernel(self):
        return Matern52(0.2, (0.7, 12.0))

    def axes(self):
        return UNEVEN


class TestProductOfMatern52(KernelContract):
    def kernel(self):
        return Product.of("matern52", 5.0, (0.7, 12.0))

    def axes(self):
        return UNEVEN


class TestProductOfMatern32(KernelContract):
    def kernel(self):
        return Product.of("matern32", 5.0, (0.7, 12.0))

    def axes(self):
        return UNEVEN


class TestFamilyOfPolicies(KernelContract):
    """Two dial axes and a finite context."""

    def kernel(self):
        return Product(2.0, (Factor("matern52", 0.7), Factor("squared_exponential", 12.0), Factor("categorical", 0.6)))

    def axes(self):
        return (*UNEVEN, CONTEXTS)


class TestContextsThatShareNothing(KernelContract):
    def kernel(self):
        return Product(2.0, (Factor("categorical", 0.0), Factor("categorical", 0.99)))

    def axes(self):
        return (CONTEXTS, CONTEXTS)


class OfAnyFactors(KernelContract):
    def __init__(self, product, axes):
        self._product, self._axes = product, axes

    def kernel(self):
        return self._product

    def axes(self):
        return self._axes


FACTORS = st.one_of(
    st.builds(Factor, st.sampled_from(["matern52", "matern32", "squared_exponential"]), st.floats(1e-3, 1e3)),
    st.builds(Factor, st.just("categorical"), st.floats(0.0, 0.999)),
)


@pytest.mark.parametrize("name", CONTRACT)
@given(
    sd=st.floats(1e-6, 1e6),
    axes=st.lists(
        st.tuples(FACTORS, st.lists(st.integers(-50, 50), min_size=1, max_size=4, unique=True).map(sorted)),
        min_size=1,
        max_size=4,
    ),
)
@settings(max_examples=25, deadline=None)
def test_a_product_of_any_factors_keeps_the_contract(name, sd, axes):
    factors, values = zip(*axes, strict=True)
    contract = OfAnyFactors(Product(sd, factors), tuple(np.array(value, dtype=np.float64) for value in values))
    if len(contract.points()) < 4:
        return
    getattr(contract, name)()


def test_a_context_is_alike_to_all_others_and_to_itself_alone():
    kernel = Product(2.0, (Factor("categorical", 0.6),))
    points = CONTEXTS[:, None]
    for a, b in itertools.product(range(3), repeat=2):
        assert kernel(points, points)[a, b] == pytest.approx(4.0 if a == b else 2.4)
