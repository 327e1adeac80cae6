"""mlx-lm reads the folders on the CPU backend of mlx: greedy tokens, losses.

python read_with_mlx.py CASES RESULT
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
from mlx_lm import load
from mlx_lm.generate import generate_step


def read(case: dict) -> dict:
    model, tokenizer = load(case["folder"])
    written = []
    for prompt in case["prompts"]:
        tokens = []
        for token, _ in generate_step(mx.array(prompt["ids"]), model, max_tokens=case["new_tokens"]):
            tokens.append(int(token))
            if tokens[-1] in tokenizer.eos_token_ids:
                break
        written.append(tokens)
    losses = {}
    for name, text in case["losses"].items():
        ids = mx.array(text["ids"])
        logits = model(ids[None, :-1])[0].astype(mx.float32)
        chosen = mx.take_along_axis(logits, ids[1:, None], axis=1)[:, 0]
        losses[name] = (mx.logsumexp(logits, axis=1) - chosen).mean().item()
    result = {
        "class": type(model).__module__,
        "text_ids": tokenizer.encode(case["text"], add_special_tokens=False),
    }
    if "messages" in case:
        result["chat_ids"] = tokenizer.apply_chat_template(case["messages"], tokenize=True, return_dict=False)
    return {**result, "tokens": written, "losses": losses}


mx.set_default_device(mx.cpu)
cases = json.loads(Path(sys.argv[1]).read_bytes())
results = {name: read(case) for name, case in cases.items()}
versions = {"mlx-lm": version("mlx-lm"), "mlx": version("mlx")}
Path(sys.argv[2]).write_text(json.dumps({"versions": versions, "models": results}))
