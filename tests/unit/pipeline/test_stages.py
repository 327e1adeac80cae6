from candlewick.data.recipe import Recipe, find
from candlewick.pipeline.stages import make

RECIPE = Recipe("thing", {"tokens": "a" * 64}, {"seed": 1})


def test_a_stage_runs_once(tmp_path):
    calls = []

    def files():
        calls.append(1)
        return {"thing.json": b"{}"}

    first, reused = make(tmp_path / "thing", RECIPE, files)
    assert not reused
    second, reused = make(tmp_path / "thing", RECIPE, files)
    assert reused
    assert first == second
    assert len(calls) == 1


def test_it_runs_again_when_anything_differs(tmp_path):
    make(tmp_path / "thing", RECIPE, lambda: {"x": b"1"})
    for other in (
        Recipe("other", RECIPE.inputs, RECIPE.config),
        Recipe("thing", {"tokens": "b" * 64}, RECIPE.config),
        Recipe("thing", RECIPE.inputs, {"seed": 2}),
    ):
        assert find(tmp_path / "thing", other) is None
    assert find(tmp_path / "nowhere", RECIPE) is None
    (tmp_path / "thing" / "x").write_bytes(b"2")
    assert find(tmp_path / "thing", RECIPE) is None
    manifest, reused = make(tmp_path / "thing", RECIPE, lambda: {"x": b"1"})
    assert not reused
    assert find(tmp_path / "thing", RECIPE) == manifest
