"""Small files in the layout of transformer_candle's own repository: run folders, tokenizers, configurations.

    runs/local/   tokenizer/{tokenizer.json,vocab.json,merges.txt,manifest.json}  special_tokens.txt  training.toml
    configs/      m3_medium.yaml  runpod_1b.yaml  ...
    crates/pretraining-data/input.txt

Written from the audit alone, with the library of tokenizers; nothing here uses code of ours.
"""

import json
from pathlib import Path
from typing import Any, Literal

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIAL = ("<pad>", "<bos>", "<eos>")
Manifest = Literal["library", "orchestrator", None]
SHAPES = {  # hidden, inner, layers, heads, context, batch, accumulation: the profiles of its README
    "m3_medium": (384, 1536, 6, 6, 512, 6, 1),
    "runpod_1b": (2048, 8192, 20, 32, 2048, 2, 32),
    "runpod_2b": (2560, 10240, 24, 40, 2048, 2, 64),
    "runpod_4b": (3072, 12288, 32, 48, 4096, 1, 256),
}


def write_tokenizer(folder: Path, text: str, manifest: Manifest = "library", *, split: bool = False) -> Path:
    """Train a tokenizer as transformer_candle did, without an alphabet of bytes, and write its folder.

    `split` leaves out tokenizer.json. `manifest` says which program wrote last: both wrote manifest.json.
    """
    rust = Tokenizer(models.BPE(byte_fallback=True))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, min_frequency=2, special_tokens=[*SPECIAL], show_progress=False)
    rust.train_from_iterator(text.splitlines(), trainer)
    ids = [(name, rust.token_to_id(name)) for name in SPECIAL]
    rust.post_processor = processors.TemplateProcessing("<bos> $A <eos>", "<bos> $A <eos> $B:1", ids)
    folder.mkdir(parents=True)
    rust.model.save(str(folder))
    if not split:
        (folder / "tokenizer.json").write_text(rust.to_str())
    contents = {
        "library": {"cfg_hash": "2a" * 32, "created_at": "unix:1759094293", "token_count": rust.get_vocab_size()},
        "orchestrator": {
            "version": 1,
            "generated_at_unix": 1759094293,
            "trained": True,
            "force_retrain": False,
            "vocab_size": 32_000,
            "tokenizer_seed": 17,
            "tokenizer_max_lines": None,
            "corpora": [{"path": "input.txt", "size_bytes": len(text), "sha256": "0" * 64}],
        },
    }
    if manifest is not None:
        (folder / "manifest.json").write_text(json.dumps(contents[manifest], indent=2))
    return folder


_SETTINGS = """
model: {hidden_size: 32, intermediate_size: 64, num_layers: 2, num_attention_heads: 2, num_key_value_heads: 2,
  max_position_embeddings: 32, attn_dropout: null, residual_dropout: null, rope_mode: null, rope_theta: null}
tokenizer: {tokenizer_json: RUN/tokenizer/tokenizer.json, vocab: null, merges: null,
  special_tokens: RUN/special_tokens.txt}
data: {train_shards: [TEXT], validation_shards: [TEXT], batch_size: 4, gradient_accumulation_steps: 2,
  shuffle_buffer_size: 1024, num_workers: 1, cache_dir: null}
optimizer: {algorithm: adam_w, learning_rate: 8.0e-5, weight_decay: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1.0e-8}
scheduler: {strategy: cosine_with_warmup, warmup_steps: 1, total_steps: 3, total_epochs: null, min_lr: 1.0e-5,
  max_lr: null}
runtime:
  {seed: 42, precision: fp32, log_every_n_steps: 1,
  checkpoint: {directory: RUN/checkpoints, every_n_steps: 2, every_n_epochs: null, max_keep: 3},
  evaluation: {every_n_steps: 2, every_n_epochs: null, max_batches: 1,
    best: {directory: RUN/best, max_keep: 1}},
  logging: {enable_stdout: true, tensorboard: RUN/tensorboard, tensorboard_flush_every_n: 10}}
"""


def settings(run: str, text: str, **sections: Any) -> dict[str, Any]:
    """Return a configuration with all the keys that transformer_candle's files have, nulls included.

    `run` and `text` are paths; `sections` are merged over it.
    """
    tree = yaml.safe_load(_SETTINGS.replace("RUN", run).replace("TEXT", text))
    return {name: {**values, **sections.get(name, {})} for name, values in tree.items()}


def write_config(path: Path, tree: dict[str, Any]) -> Path:
    """Write a configuration as one of its files in configs/."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"---\n# a configuration\n{yaml.safe_dump(tree, sort_keys=False)}")
    return path


def write_run(repository: Path, text: str, manifest: Manifest = "library") -> Path:
    """Write runs/local as its orchestrator did: all paths in training.toml are relative to the repository."""
    run, source = repository / "runs" / "local", repository / "crates" / "pretraining-data" / "input.txt"
    source.parent.mkdir(parents=True)
    source.write_text(text)
    write_tokenizer(run / "tokenizer", text, manifest)
    (run / "special_tokens.txt").write_text(json.dumps(SPECIAL))
    tree = settings("runs/local", "crates/pretraining-data/input.txt")
    (run / "training.toml").write_text("\n".join(_toml("", tree)))
    (run / "training.yaml").write_text(yaml.safe_dump(tree))
    return run


def _toml(name: str, section: dict[str, Any]) -> list[str]:
    """Return the lines of a section and of those in it; keys that are null are left out."""
    lines = [f"[{name}]"] if name else []
    lines += [f"{k} = {json.dumps(v)}" for k, v in section.items() if v is not None and not isinstance(v, dict)]
    for key, inner in section.items():
        if isinstance(inner, dict):
            lines += _toml(f"{name}.{key}" if name else key, inner)
    return lines
