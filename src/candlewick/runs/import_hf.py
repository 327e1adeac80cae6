"""Weights of Hugging Face become a checkpoint.

a Llama, Qwen3, Mistral or SmolLM3 folder    ->  OUTPUT/, a checkpoint without optimizer
or hf://OWNER/NAME@REVISION                      `train --init-from OUTPUT` starts from it
"""

from dataclasses import dataclass
from pathlib import Path

from candlewick.checkpoint.open import Checkpoint
from candlewick.checkpoint.save import Snapshot, write_checkpoint
from candlewick.config import ModelConfig
from candlewick.errors import CheckpointError
from candlewick.runs.start import find_model
from candlewick.tokenizer.bpe import Tokenizer


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The checkpoint that an import wrote."""

    output: Path
    model: ModelConfig
    vocab_size: int
    parameters: int
    step: int | None  # updates that were made before; None: it has weights alone


def import_hugging_face(source: str, output: Path, tokenizer: Path | None = None) -> ImportResult:
    """Make a checkpoint of the weights of a Hugging Face folder or a model on the Hub. Raises CheckpointError."""
    _, folder = find_model(source)
    checkpoint = Checkpoint.open(folder, need={"weights"})
    (model, rows), tensors = checkpoint.shape, checkpoint.weights()
    loaded = (
        Tokenizer.load(tokenizer).with_generation(checkpoint.generation) if tokenizer else checkpoint.tokenizer
    )
    require_rows(loaded, rows, folder)
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    inputs = {"tokenizer": loaded.sha256, "parent": checkpoint.id}
    write_checkpoint(output, Snapshot(0, weights, None, None, model, rows, loaded, inputs))
    return ImportResult(output, model, rows, sum(tensor.numel() for tensor in weights.values()), None)


def require_rows(tokenizer: Tokenizer, rows: int, folder: Path) -> None:
    """Raise CheckpointError if the model of a folder, of so many vocabulary rows, has fewer than the tokenizer."""
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model of {folder} has {rows} rows",
            "give the tokenizer that the model was trained with",
        )
