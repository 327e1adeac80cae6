"""transformers reads the folders: class, token ids, greedy tokens, losses.

python read_with_transformers.py CASES RESULT
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def read(case: dict) -> dict:
    model = AutoModelForCausalLM.from_pretrained(case["folder"], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(case["folder"])
    written = []
    for prompt in case["prompts"]:
        ids = torch.tensor([prompt["ids"]])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=case["new_tokens"]
        )
        written.append(out[0, ids.shape[1] :].tolist())
    losses = {}
    for name, text in case["losses"].items():
        ids = torch.tensor([text["ids"]])
        with torch.no_grad():
            losses[name] = model(ids, labels=ids).loss.item()
    result = {"class": type(model).__name__, "text_ids": tokenizer.encode(case["text"], add_special_tokens=False)}
    if "messages" in case:
        result["chat_ids"] = tokenizer.apply_chat_template(case["messages"], tokenize=True, return_dict=False)
    return {**result, "tokens": written, "losses": losses}


cases = json.loads(Path(sys.argv[1]).read_bytes())
results = {name: read(case) for name, case in cases.items()}
versions = {"transformers": transformers.__version__, "torch": torch.__version__}
Path(sys.argv[2]).write_text(json.dumps({"versions": versions, "models": results}))
