"""What every kernel must keep; subclass, give the kernel and some points, and pytest runs the rest."""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float

from safehold.gp.kernels import Kernel, SeparableKernel


class KernelContract(ABC):
    """A suite of tests over one kernel: it is a covariance with the declared spread, and a product where it says so."""

    @abstractmethod
    def kernel(self) -> Kernel:
        """The kernel under test."""
        ...

    @abstractmethod
    def axes(self) -> tuple[Float[np.ndarray, "_"], ...]:
        """Values of every dial axis, an axis a scale; of a categorical axis the numbers of its contexts."""
        ...

    def points(self) -> Float[np.ndarray, "m d"]:
        """All points of the grid of `axes`, the last axis running fastest."""
        return np.stack([axis.ravel() for axis in np.meshgrid(*self.axes(), indexing="ij")], axis=1)

    def test_it_keeps_the_protocol(self) -> None:
        """One positive spread, one scale an axis, and the methods of a separable kernel if it says that it is one."""
        kernel = self.kernel()
        assert isinstance(kernel, Kernel)
        assert np.isfinite(kernel.sd)
        assert kernel.sd > 0
        assert len(kernel.lengthscales) == len(self.axes())
        assert isinstance(kernel, SeparableKernel) or not kernel.separable

    def test_it_is_symmetric(self) -> None:
        """Cov(f(a), f(b)) = Cov(f(b), f(a)), bit for bit."""
        points = self.points()
        matrix = self.kernel()(points, points)
        assert np.isfinite(matrix).all()
        np.testing.assert_array_equal(matrix, matrix.T)
        np.testing.assert_array_equal(self.kernel()(points[:2], points[1:]), matrix[:2, 1:])

    def test_its_diagonal_is_the_declared_variance(self) -> None:
        """The spread that a certificate rests on is the declared one, everywhere; no covariance is larger."""
        kernel, points = self.kernel(), self.points()
        np.testing.assert_allclose(kernel.diagonal(points), kernel.sd**2, rtol=1e-14)
        matrix = kernel(points, points)
        np.testing.assert_allclose(np.diag(matrix), kernel.sd**2, rtol=1e-14)
        assert np.all(np.abs(matrix) <= kernel.sd**2 * (1 + 1e-14))

    def test_it_is_positive_semidefinite(self) -> None:
        """No combination of values has a negative variance, up to rounding; repeated points included."""
        points = np.concatenate([self.points(), self.points()[:3]])
        matrix = self.kernel()(points, points)
        assert np.linalg.eigvalsh(matrix).min() >= -1e-13 * len(points) * self.kernel().sd ** 2

    def test_a_separable_kernel_is_the_product_of_its_axes(self) -> None:
        """sd^2 times the Kronecker product of its axis matrices is its matrix on the grid; every factor is 1 at 0."""
        kernel = self.kernel()
        if not kernel.separable:
            return
        assert isinstance(kernel, SeparableKernel)
        product = np.array([[kernel.sd**2]])
        for axis, values in enumerate(self.axes()):
            matrix = kernel.axis_matrix(axis, values)
            np.testing.assert_array_equal(matrix, kernel.axis_cross(axis, values, values))
            np.testing.assert_array_equal(np.diag(matrix), 1.0)
            product = np.kron(product, matrix)
        np.testing.assert_allclose(product, kernel(self.points(), self.points()), rtol=1e-13, atol=1e-15)

    def test_it_forgets_nothing_and_keeps_no_state(self) -> None:
        """The same arguments give the same covariances; arguments are left as they are."""
        points = self.points()
        kept, first = points.copy(), self.kernel()(points, points)
        np.testing.assert_array_equal(self.kernel()(points, points), first)
        np.testing.assert_array_equal(points, kept)
