import json

import pytest

from candlewick.cli.main import main


@pytest.mark.parametrize("is_json", [False, True])
def test_profile_prints_parts_operators_and_memory(tiny, config_file, tmp_path, capsys, is_json):
    output = tmp_path / "profile"
    words = ["profile", "--config", config_file(tiny()), "--steps", "1", "--output", str(output)]
    assert main([*words, "--json"] if is_json else words) == 0
    out = capsys.readouterr().out
    if is_json:
        assert json.loads(out)["output"] == str(output)
        return
    for said in ("a step takes", "forward: attention", "optimizer: Muon", "aten::", "activations", "trace.json"):
        assert said in out
