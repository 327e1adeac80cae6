"""lm-eval measures the loss of a text with its model type `hf`, as a task of its own.

    python read_with_lm_eval.py CASES RESULT

The document is the text and the token that ends it; lm-eval puts the token that begins it before it. What it
reports per byte is the sum of the losses, which `candlewick eval` gives as a mean per token.
"""

import json
import math
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict
from lm_eval import simple_evaluate


def read(case: dict) -> dict:
    document = case["text"] + "<|endoftext|>"
    task = {
        "task": "given_text",
        "custom_dataset": lambda **_: DatasetDict({"test": Dataset.from_list([{"text": document}])}),
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    found = simple_evaluate(
        "hf",
        model_args={"pretrained": case["folder"], "dtype": "float32"},
        tasks=[task],
        device="cpu",
        batch_size=1,
        bootstrap_iters=0,
    )
    bits = found["results"]["given_text"]["bits_per_byte,none"]
    return {"losses": {"eval": bits * len(document.encode()) * math.log(2) / case["eval"]["tokens"]}}


cases = json.loads(Path(sys.argv[1]).read_bytes())
results = {name: read(case) for name, case in cases.items() if "eval" in case}
versions = {name: version(name) for name in ("lm-eval", "transformers", "torch")}
versions["torch"] = torch.__version__
Path(sys.argv[2]).write_text(json.dumps({"versions": versions, "models": results}))
