import pytest
import torch
from tests.gradients import gradient_of

from candlewick.model.norm import RMSNorm


def hugging_face(x, weight, eps):
    """Mean in float32 at least, cast back, then the weight."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normal.to(x.dtype)


def norm_and_input(dtype, shape=(5, 7, 24)):
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(shape[-1], eps=1e-5).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(shape[-1], generator=generator))
    return norm, (3 * torch.randn(shape, generator=generator)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rms_norm_in_half_precision_equals_hugging_face_bitwise(dtype):
    norm, x = norm_and_input(dtype)
    assert torch.equal(norm(x), hugging_face(x, norm.weight, 1e-5))


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("shape", [(5, 7, 24), (1, 6), (2, 3, 4, 8)])
def test_rms_norm_in_float32_and_float64_equals_hugging_face_within_rounding(dtype, rounding, shape):
    norm, x = norm_and_input(dtype, shape)
    assert torch.allclose(norm(x), hugging_face(x, norm.weight, 1e-5), rtol=rounding, atol=rounding)


def test_rms_norm_gradients_equal_autograd():
    norm, x = norm_and_input(torch.float64)
    x.requires_grad_()
    above = torch.randn(x.shape, dtype=torch.float64)
    ours = torch.autograd.grad((norm(x) * above).sum(), (x, norm.weight))
    plain = torch.autograd.grad((hugging_face(x, norm.weight, 1e-5) * above).sum(), (x, norm.weight))
    for a, b in zip(ours, plain, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_rms_norm_of_zeros_is_zero_with_a_finite_gradient():
    norm, _ = norm_and_input(torch.float32)
    x = torch.zeros(1, 24, requires_grad=True)
    y = norm(x)
    y.sum().backward()
    assert (y == 0).all()
    assert gradient_of(x).isfinite().all()


def test_rms_norm_accepts_a_weight_of_another_dtype():
    norm, x = norm_and_input(torch.float32)
    assert norm(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "is_own"), [(torch.float64, True), (torch.float32, True), (torch.bfloat16, False)]
)
def test_in_single_and_double_precision_the_cpu_has_a_function_of_its_own(dtype, is_own):
    norm, x = norm_and_input(dtype)
    assert (type(norm(x).grad_fn).__name__ == "_CpuRMSNormBackward") == is_own
