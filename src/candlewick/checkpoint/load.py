"""Put a checkpoint's weights into a model, for inference or for training."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from candlewick.checkpoint.open import Checkpoint
from candlewick.errors import CheckpointError
from candlewick.model.initialize import materialize
from candlewick.model.transformer import Transformer
from candlewick.parallel.fsdp import sharded_like
from candlewick.tokenizer.bpe import Tokenizer


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy tensors into the model's parameters by name. Raises CheckpointError for other names or shapes."""
    parameters, problem = dict(model.named_parameters()), None
    if missing := sorted(parameters.keys() - tensors.keys()):
        problem = f" lacks {len(missing)} tensors of this model, the first is {missing[0]}"
    elif extra := sorted(tensors.keys() - parameters.keys()):
        problem = f" has {len(extra)} tensors that this model lacks, the first is {extra[0]}"
    elif other := [name for name in parameters if tensors[name].shape != parameters[name].shape]:
        shape, needed = (tuple(each[other[0]].shape) for each in (tensors, parameters))
        problem = f": {other[0]} has shape {shape}, the configuration says {needed}"
    if problem is not None:
        fix = "use the configuration that the checkpoint was written with"
        raise CheckpointError(f"{source}{problem}", fix)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(sharded_like(tensors[name], parameter))


def read_resized_weights(checkpoint: Checkpoint, vocab_size: int) -> dict[str, Tensor]:
    """Read a checkpoint's weights for a model of `vocab_size` rows; new rows are the mean of the saved ones.

    Raises CheckpointError if the checkpoint has more rows.
    """
    tensors, (_, saved_size) = checkpoint.weights(), checkpoint.shape
    if (num_new := vocab_size - saved_size) < 0:
        raise CheckpointError(
            f"{checkpoint.folder} has {saved_size} vocabulary rows, the model {vocab_size}",
            "leave model.vocab_size null, or set it to at least as many",
        )
    for name in ("model.embed_tokens.weight", "lm_head.weight") if num_new else ():
        if name in tensors:
            mean = tensors[name].mean(dim=0, keepdim=True, dtype=torch.float32).to(tensors[name].dtype)
            tensors[name] = torch.cat((tensors[name], mean.expand(num_new, -1)))
    return tensors


def build_model(checkpoint: Checkpoint, device: torch.device) -> Transformer:
    """Build the model of a checkpoint on a device, in evaluation mode. Raises CheckpointError."""
    config, vocab_size = checkpoint.shape
    if checkpoint.tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"{checkpoint.folder}: the tokenizer has {checkpoint.tokenizer.vocab_size} tokens, the model "
            f"{vocab_size} rows",
            "use the tokenizer that the model was trained with",
        )
    tensors = checkpoint.weights()
    with torch.device("meta"):
        model = Transformer(config, vocab_size)
    materialize(model, device)
    model.init_buffers()
    load_weights(model, tensors, checkpoint.folder)
    return model.eval()


def load_for_inference(path: Path, device: torch.device) -> tuple[Transformer, Tokenizer]:
    """Load a model, in evaluation mode, and its tokenizer from any path of `Checkpoint.open`."""
    checkpoint = Checkpoint.open(path, need={"weights"})
    return build_model(checkpoint, device), checkpoint.tokenizer
