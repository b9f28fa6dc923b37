"""Steps inside a trust region: conjugate gradients, products with the Fisher matrix, the step itself, the line search.

    maximise  g x    subject to    x H x / 2 <= radius    and, if there is one,    b x + c <= 0,

with H the second derivative of the divergence between new and old policy.   [TRPO, arXiv 1502.05477, App. C; CPO, arXiv
1705.10528, Sec. 6]
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""v -> H v."""


def flatten(tensors: Sequence[Tensor]) -> Float[Tensor, "p"]:
    """All entries in one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@torch.no_grad()
def assign(parameters: Sequence[Tensor], vector: Float[Tensor, "p"]) -> None:
    """The inverse of `flatten`, in place."""
    at = 0
    for parameter in parameters:
        parameter.copy_(vector[at : at + parameter.numel()].view_as(parameter))
        at += parameter.numel()


def gradient(value: Float[Tensor, ""], parameters: Sequence[Tensor], *, again: bool = False) -> Float[Tensor, "p"]:
    """The gradient in one vector; `again`: it will be differentiated itself."""
    return flatten(torch.autograd.grad(value, parameters, create_graph=again, retain_graph=again))


def fisher_product(divergence: Float[Tensor, ""], parameters: Sequence[Tensor], damping: float) -> Product:
    """V -> (H + damping) v, H the second derivative of a mean divergence, at parameters where it is 0."""
    slope = gradient(divergence, parameters, again=True)

    def product(vector: Float[Tensor, "p"]) -> Float[Tensor, "p"]:
        curved = torch.autograd.grad((slope * vector).sum(), parameters, retain_graph=True)
        return flatten(curved) + damping * vector

    return product


def conjugate_gradient(
    product: Product, right: Float[Tensor, "p"], *, iterations: int, tolerance: float = 1e-10
) -> Float[Tensor, "p"]:
    """Solves H x = right, until `iterations` are over or the squared residual is under `tolerance` of the start's.

    [Hestenes & Stiefel 1952; Nocedal & Wright 2006, Alg. 5.2]
    """
    x = torch.zeros_like(right)
    residual, direction = right.clone(), right.clone()
    squared = residual @ residual
    enough = tolerance * squared
    for _ in range(iterations):
        if squared <= enough:
            break
        curved = product(direction)
        length = squared / (direction @ curved)
        x = x + length * direction
        residual = residual - length * curved
        following = residual @ residual
        direction = residual + (following / squared) * direction
        squared = following
    return x


@dataclass(frozen=True, slots=True)
class Step:
    """The step x, the price that it puts on the constraint (0 unless that binds), and why it is this one.

    `kind`: "free" (the constraint does not bind, or there is none), "bound" (it does), "recovery" (nothing inside the
    region keeps it: the step goes straight to where it is kept), "none" (nothing to gain).
    """

    x: Float[Tensor, "p"]
    price: float
    kind: Literal["free", "bound", "recovery", "none"]


NEGLIGIBLE = 1e-12
"""g H^-1 g, or b H^-1 b, under which there is no direction to speak of."""


def step(
    reward: Float[Tensor, "p"],
    radius: float,
    product: Product,
    *,
    iterations: int,
    cost: Float[Tensor, "p"] | None = None,
    excess: float = 0.0,
) -> Step:
    """The solution x of the problem above; g is `reward`, b is `cost`, c is `excess`.

    With q = g H^-1 g, r = g H^-1 b, s = b H^-1 b: the free step sqrt(2 radius / q) H^-1 g, if it keeps the constraint;
    else, if c^2 / s <= 2 radius or c <= 0, both constraints bind, and

        x = H^-1 (g - nu b) / lambda,   lambda^2 = (q - r^2 / s) / (2 radius - c^2 / s),   nu = (r + lambda c) / s;

    else the recovery step -sqrt(2 radius / s) H^-1 b.   [CPO, Sec. 6 and its dual, solved for one constraint]
    """
    to_reward = conjugate_gradient(product, reward, iterations=iterations)
    q = float(reward @ to_reward)
    free = math.sqrt(2.0 * radius / q) * to_reward if q > NEGLIGIBLE else torch.zeros_like(reward)
    kind: Literal["free", "none"] = "free" if q > NEGLIGIBLE else "none"
    if cost is None:
        return Step(free, 0.0, kind)
    to_cost = conjugate_gradient(product, cost, iterations=iterations)
    s, r = float(cost @ to_cost), float(reward @ to_cost)
    if s <= NEGLIGIBLE or float(cost @ free) + excess <= 0.0:
        return Step(free, 0.0, kind)
    room = 2.0 * radius - excess**2 / s
    if room <= 0.0:
        return Step(-math.sqrt(2.0 * radius / s) * to_cost, 0.0, "recovery")
    curvature = max(q - r**2 / s, 0.0)  # >= 0 by Cauchy and Schwarz, but for rounding
    scale = math.sqrt(curvature / room)
    if scale <= NEGLIGIBLE:  # reward and cost pull along one line: stop where the constraint does
        return Step(-(excess / s) * to_cost, r / s, "bound")
    price = max((r + scale * excess) / s, 0.0)
    return Step((to_reward - price * to_cost) / scale, price, "bound")


@torch.no_grad()
def line_search(
    parameters: Sequence[Tensor],
    x: Float[Tensor, "p"],
    acceptable: Callable[[], bool],
    *,
    shrink: float,
    tries: int,
) -> float:
    """Moves the parameters along x, by ever less of it, until `acceptable`; returns the share, 0 if they stay."""
    begun, share = flatten(parameters), 1.0
    for _ in range(tries):
        assign(parameters, begun + share * x)
        if acceptable():
            return share
        share *= shrink
    assign(parameters, begun)
    return 0.0
