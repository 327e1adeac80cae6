import math

import numpy as np
import pytest
import torch

from candlewick.optim.orthogonal import coefficients, orthogonalize

KINDS = ["quintic", "polar_express"]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def best_quintic(low, high):
    """a, b, c of the odd polynomial nearest 1 on [low, high], by Remez' exchange."""
    inner = [(3 * low + high) / 4, (low + 3 * high) / 4]
    for _ in range(60):
        points = np.array([low, *inner, high])
        table = np.stack([points, points**3, points**5, [1, -1, 1, -1]], axis=1)
        a, b, c, _ = np.linalg.solve(table, np.ones(4))
        root = math.sqrt(9 * b * b - 20 * a * c)
        inner = [math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))]
    return a, b, c


def best_polynomials(steps):
    """The best polynomial of each step for singular values of 0.001 to 1 (arXiv:2505.16932, algorithm 1).

    Values below 2.4 % of the largest one are not fitted, which keeps the first steps from overshooting.
    """
    low, high = 1e-3, 1.0
    for _ in range(steps):
        fitted = max(low, 0.02407327424182761 * high)
        a, b, c = best_quintic(fitted, high) if fitted < (1 - 5e-6) * high else (1.875, -1.25, 0.375)
        ends = [a * x + b * x**3 + c * x**5 for x in (low, high)]
        a, b, c = (2 / sum(ends) * value for value in (a, b, c))
        yield a, b, c
        low = a * low + b * low**3 + c * low**5
        high = 2 - low


def reference(matrix, kind, steps):
    """The same polynomials, applied to the singular values of one matrix in float64."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / matrix.double().norm()
    if kind == "polar_express":
        values = values / 1.01
    for step, (a, b, c) in enumerate(best_polynomials(steps)):
        if kind == "quintic":
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        else:
            x = values / (1.01 if step < 7 else 1)
            values = a * x + b * x**3 + c * x**5
    return left @ torch.diag(values) @ right


@pytest.mark.parametrize("kind", KINDS)
def test_orthogonalize_applies_the_polynomials_to_the_singular_values(kind, core_row):
    errors = []
    for shape in [(3, 6, 10), (2, 10, 6), (1, 8, 8), (2, 1, 5)]:
        for steps in (1, 5, 9):
            stack = random(*shape)
            expected = torch.stack([reference(matrix, kind, steps) for matrix in stack])
            errors.append(
                (orthogonalize(stack, coefficients(kind, steps)) - expected).abs().max() / expected.abs().max()
            )
    core_row(
        f"optimizer.coefficients={kind}", "the polynomials of the singular values, float64", max(errors), 1e-9
    )


def test_polar_express_coefficients_are_optimal_at_every_step():
    found = coefficients("polar_express", 12)
    for step, expected in enumerate(best_polynomials(8)):
        margin = {0: 1.01**2, 7: 1.0}.get(step, 1.01)
        assert found[step] == pytest.approx(
            [x / margin**power for x, power in zip(expected, (1, 3, 5), strict=True)], rel=1e-5
        )
    assert found[8:] == ((1.875, -1.25, 0.375),) * 4


@pytest.mark.parametrize(
    ("kind", "steps", "low", "high"),
    [("quintic", 5, 0.6, 1.3), ("polar_express", 5, 0.8, 1.2), ("polar_express", 9, 0.999999, 1.000001)],
)
def test_orthogonalize_moves_singular_values_to_one_and_keeps_directions(kind, steps, low, high):
    matrix = random(1, 32, 64)
    result = orthogonalize(matrix, coefficients(kind, steps))[0]
    left, _, right = torch.linalg.svd(matrix[0], full_matrices=False)
    values = torch.linalg.svdvals(result)
    assert low < values.min() <= values.max() < high
    assert ((left.mT @ result @ right.mT).diagonal() > low).all()


@pytest.mark.parametrize("kind", KINDS)
def test_orthogonalize_ignores_the_scale_and_keeps_zero(kind):
    matrix, steps = random(1, 4, 6), coefficients(kind, 5)
    assert torch.allclose(orthogonalize(1e-3 * matrix, steps), orthogonalize(1e3 * matrix, steps))
    assert (orthogonalize(torch.zeros(2, 4, 6), steps) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_orthogonalize_in_float32_agrees_with_float64(kind):
    stack, steps = random(2, 6, 10), coefficients(kind, 5)
    assert torch.allclose(orthogonalize(stack.float(), steps).double(), orthogonalize(stack, steps), atol=1e-4)


@pytest.mark.parametrize(("shape", "short"), [((2, 9, 4), 4), ((2, 4, 9), 4), ((2, 5, 5), 5)])
def test_products_are_made_on_the_short_side(monkeypatch, shape, short):
    squares = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: squares.append(bmm(a, b)) or squares[-1])
    assert orthogonalize(random(*shape), coefficients("quintic", 3)).shape == shape
    assert [tuple(square.shape) for square in squares] == [(2, short, short)] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_a_matrix_changes_nothing(kind):
    matrix, steps = random(1, 4, 6), coefficients(kind, 5)
    expected = orthogonalize(matrix, steps)
    for scale in (1e-5, 1e5):
        assert torch.allclose(orthogonalize(scale * matrix, steps), expected, rtol=1e-9, atol=1e-12)
    nothing = orthogonalize(torch.zeros(1, 4, 6), steps)
    assert nothing.eq(0).all()
