import pytest

from candlewick.config.load import profiles
from candlewick.runs.report import profiles as module
from candlewick.runs.report.profiles import Profile, as_json, format_profiles, list_profiles, measure_flops


def test_every_profile_is_listed_with_its_size_and_length(monkeypatch):
    monkeypatch.setattr(module, "measure_flops", lambda: 1e11)
    rows = {row.name: row for row in list_profiles()}
    assert rows.keys() == set(profiles())
    assert [row.parameters for row in rows.values()] == sorted(row.parameters for row in rows.values())
    local, large = rows["local"], rows["runpod_4b"]
    assert 0.9e6 < local.parameters < 1.2e6
    assert local.memory_bytes == 16 * local.parameters  # AdamW: weight, gradient, two moments in float32
    assert rows["demo"].memory_bytes == 12 * rows["demo"].parameters  # muon has one moment
    assert 3.6e9 < large.parameters < 3.9e9
    # six FLOPs per weight in a product and token, at 30 % of 100 GFLOP/s
    assert large.tokens is not None
    assert large.cpu_seconds == pytest.approx(6 * large.parameters * large.tokens / 3e10, rel=0.3)
    assert rows["demo"].tokens is None
    assert as_json([local])[0]["name"] == "local"


def test_table_fits_80_columns():
    rows = [Profile("a" * 16, 3_700_000_000, 131_072, 10**11, 4 * 10**12, 1e12), Profile("b", 900, 8, 9, None, 80)]
    lines = format_profiles(rows).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].endswith("about 32,000 years")
    assert lines[2].endswith("  80 seconds")
    assert "3.7 G" in lines[1]


def test_speed_of_products_is_positive():
    assert measure_flops() > 1e6
