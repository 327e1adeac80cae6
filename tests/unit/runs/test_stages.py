from candlewick.artifacts.build import Recipe, find
from candlewick.runs.stages import make

RECIPE = Recipe("thing", {"tokens": "a" * 64}, {"seed": 1})


def test_a_stage_runs_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"é": 1}

    for was_there in (False, True):
        assert make(tmp_path / "thing" / "a.json", RECIPE, compute) == ({"é": 1}, was_there)
    assert len(calls) == 1


def test_it_runs_again_when_anything_differs(tmp_path):
    path = tmp_path / "thing" / "x"
    make(path, RECIPE, lambda: 1)
    for other in (
        Recipe("other", RECIPE.inputs, RECIPE.config),
        Recipe("thing", {"tokens": "b" * 64}, RECIPE.config),
        Recipe("thing", RECIPE.inputs, {"seed": 2}),
    ):
        assert find(tmp_path / "thing", other) is None
    assert find(tmp_path / "nowhere", RECIPE) is None
    path.write_bytes(b"2")
    assert find(tmp_path / "thing", RECIPE) is None
    assert make(path, RECIPE, lambda: 3) == (3, False)
    assert find(tmp_path / "thing", RECIPE) is not None
