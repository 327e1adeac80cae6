#!/usr/bin/env bash
# What a pod runs when it starts, and again whenever it was stopped: text -> shards -> tokens -> training.
# Each step does what is not done yet, so the same command goes on where the last one was stopped.
#
#   RUN_CONFIG            configuration or shipped profile; for configs/NAME.yaml, if it is not here, the profile NAME
#                         (of transformer_candle's sizes and ours: docs/from-candle.md); default orchestrate
#   RUN_EXPERIMENT        name of the run and of its folders, any; default: that of RUN_CONFIG
#   RUN_SHARD             1 (default): write the text as shards first; 0: they are there
#   RUN_SOURCE            text to shard: file, folder or hf://datasets/OWNER/NAME; needed with RUN_SHARD=1
#   RUN_MAX_DOCUMENTS     documents of it at most; default: all
#   RUN_VAL_RATIO         share of documents held out; default 0.01
#   SHARD_LINES           documents per shard; default 250000
#   RUN_LOADER_WORKERS    processes that prepare text; default: one per core
#   RUN_TRAIN             1 (default): train; 0: stop when all is prepared
#   ORCHESTRATE_{RUNS,CACHE,TOKENIZER,TRAIN,VAL,HF_CACHE}_ROOT    folders; default below /workspace
set -euo pipefail

config=${RUN_CONFIG:-orchestrate}
name=$(basename "$config")
name=${name%.*}
if [[ $config != "$name" && ! -e $config ]]; then
  echo "note: $config is not here: the shipped profile $name is taken (the sizes of both: docs/from-candle.md)" >&2
  config=$name
fi
experiment=${RUN_EXPERIMENT:-$name}

if [[ ${RUN_SHARD:-1} == 1 ]]; then
  shard=(
    --source "${RUN_SOURCE:?say what to shard, or set RUN_SHARD=0}"
    --lines-per-shard "${SHARD_LINES:-250000}"
    --train-output "${ORCHESTRATE_TRAIN_ROOT:-/workspace/datasets/train}/$experiment"
    --val-output "${ORCHESTRATE_VAL_ROOT:-/workspace/datasets/val}/$experiment"
    --cache-root "${ORCHESTRATE_HF_CACHE_ROOT:-${HF_HOME:-/workspace/hf_cache}}"
  )
  if [[ ${RUN_VAL_RATIO:-0.01} =~ ^0*(\.0*)?$ ]]; then
    shard+=(--mode prod) # nothing is held out
  else
    shard+=(--mode split --val-ratio "${RUN_VAL_RATIO:-0.01}")
  fi
  if [[ -n ${RUN_MAX_DOCUMENTS:-} ]]; then
    shard+=(--take "$RUN_MAX_DOCUMENTS")
  fi
  candlewick data shard "${shard[@]}"
fi

prepare=(--mode cloud --config "$config" --experiment "$experiment" --reuse-shards)
if [[ -n ${RUN_LOADER_WORKERS:-} ]]; then
  prepare+=(--loader-workers "$RUN_LOADER_WORKERS")
fi
next=$(candlewick orchestrate "${prepare[@]}" | tee /dev/stderr | sed -n 's/^next: //p')

if [[ ${RUN_TRAIN:-1} == 1 ]]; then
  eval "exec $next" # candlewick train --config ..., with --resume if there is a checkpoint
fi
