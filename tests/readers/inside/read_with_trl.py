"""TRL fine-tunes the models: SFTTrainer takes one step on one text, or on one chat.

    python read_with_trl.py CASES RESULT

The loss of the first step is that of the weights in the folder; the step must change them.
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer


def read(case: dict) -> dict:
    name = "chat" if "messages" in case else "before the delimiter"
    row = {"messages": case["messages"]} if "messages" in case else {"text": case["short_text"]}
    with tempfile.TemporaryDirectory() as output:
        trainer = SFTTrainer(
            case["folder"],
            args=SFTConfig(
                output_dir=output,
                max_steps=1,
                per_device_train_batch_size=1,
                learning_rate=1e-3,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                bf16=False,
                disable_tqdm=True,
                model_init_kwargs={"dtype": "float32"},
            ),
            train_dataset=Dataset.from_list([row]),
        )
        ids = trainer.train_dataset[0]["input_ids"]
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        loss = trainer.train().training_loss
    after = trainer.model.state_dict()
    changed = [
        bool(after[name].isfinite().all()) and not torch.equal(tensor, after[name])
        for name, tensor in before.items()
    ]
    return {
        "class": type(trainer.model).__name__,
        "trained_ids": {name: list(ids)},
        "losses": {name: loss},
        "changed_tensors": [sum(changed), len(after)],
    }


cases = json.loads(Path(sys.argv[1]).read_bytes())
results = {name: read(case) for name, case in cases.items()}
versions = {name: version(name) for name in ("trl", "transformers")} | {"torch": torch.__version__}
Path(sys.argv[2]).write_text(json.dumps({"versions": versions, "models": results}))
