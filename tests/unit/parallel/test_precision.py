import logging

import pytest
import torch

from candlewick.parallel import precision
from candlewick.parallel.device import Distributed
from candlewick.parallel.precision import slowdown, warn_if_emulated


def on(device: str, dtype: torch.dtype) -> Distributed:
    return Distributed(0, 1, torch.device(device), dtype)


@pytest.fixture
def warned(monkeypatch, caplog):
    """What is said on a device where a product in half precision takes so many times as long."""
    caplog.set_level(logging.WARNING)

    def make(distributed: Distributed, factor: float, *, native: bool = False) -> str:
        caplog.clear()
        monkeypatch.setattr(precision, "slowdown", lambda *_: factor)
        monkeypatch.setattr(precision, "has_native_bf16", lambda _: native)
        warn_if_emulated(distributed, 384)
        return caplog.text

    return make


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_emulated_precision_warns_with_its_cost(warned, dtype):
    name = str(dtype).removeprefix("torch.")
    assert f"only emulates {name}: a product of 384 columns takes 7.2 times as long" in warned(
        on("cpu", dtype), 7.23
    )
    assert warned(on("cpu", dtype), 0.9) == ""


def test_native_precision_gives_no_warning(warned):
    assert warned(on("cpu", torch.float32), 9.0) == ""
    assert warned(on("cpu", torch.bfloat16), 9.0, native=True) == ""
    assert warned(on("cuda", torch.float16), 9.0) == ""
    assert "this cuda only emulates bfloat16" in warned(on("cuda", torch.bfloat16), 9.0)


def test_precision_cost_is_measured_on_products_of_bounded_size(monkeypatch):
    monkeypatch.setattr(precision, "_MEASURE_SECONDS", 0.0)
    seen = []
    product = torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda a, b, out: seen.append((b.dtype, b.shape[0])) or product(a, b, out=out)
    )
    assert slowdown(torch.bfloat16, 100_000, torch.device("cpu")) > 0
    assert seen == [(torch.bfloat16, 1024), (torch.float32, 1024)]
