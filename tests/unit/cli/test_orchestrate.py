import json

from candlewick.cli.main import main


def test_orchestrate_runs_all_stages_and_then_reuses_them(tiny, config_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = config_file(tiny(scheduler={"total_steps": 2, "warmup_steps": 1}), "small.yaml")
    assert main(["orchestrate", "--config", config]) == 0
    first = capsys.readouterr().out
    assert [line.split()[0] for line in first.splitlines()[:5]] == [
        *("tokenizer", "tokens", "training", "evaluation", "samples")
    ]
    assert "\nthe model writes:\n" in first
    assert (tmp_path / "runs" / "small" / "training.toml").is_file()
    # each of the written configs is one that `train` takes
    for kind in ("yaml", "toml"):
        written = tmp_path / "runs" / "small" / f"training.{kind}"
        assert main(["train", "--config", str(written), "--run-dir", str(tmp_path / kind)]) == 0
    capsys.readouterr()
    assert main(["orchestrate", "--config", config]) == 0
    assert capsys.readouterr().out.count("reused, up to date") == 5


def test_orchestrate_input_replaces_the_text_of_the_config(tiny, config_file, text_dir, tmp_path, capsys):
    config = config_file(tiny(scheduler={"total_steps": 2, "warmup_steps": 1}))
    inputs = ["--input", str(text_dir / "00.txt"), "--input", str(text_dir / "01.txt")]
    words = ["orchestrate", "--config", config, *inputs, "--run-dir", str(tmp_path / "run"), "--json"]
    assert main([*words, "--override", "data.validation_fraction=0.2"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["run_dir"] == str(tmp_path / "run")
    assert result["metrics"]["eval/loss"] > 0
    assert [sample["prompt"] for sample in result["samples"]] == [""]
    assert "tokenizer  made: " in captured.err
    manifest = json.loads((tmp_path / "run" / "tokens" / "manifest.json").read_bytes())
    size = sum(split["text_bytes"] for split in manifest["details"]["splits"].values())
    assert size == sum((text_dir / name).stat().st_size for name in ("00.txt", "01.txt"))
