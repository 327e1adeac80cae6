"""Text of each kind that people have becomes a trained model with one command."""

import csv
import gzip
import json
import mailbox
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import make_text
from tests.corpora import exchange

SETTINGS = {
    "model.hidden_size": 32,
    "model.num_layers": 1,
    "model.num_attention_heads": 2,
    "model.max_position_embeddings": 32,
    "tokenizer.vocab_size": 300,
    "data.micro_batch_size": 4,
    "data.num_workers": 1,
    "scheduler.total_steps": 3,
    "scheduler.warmup_steps": 1,
    "runtime.device": "cpu",
    "runtime.checkpoint.every_n_steps": 3,
}
TEXTS = [make_text(seed, 60) for seed in range(60)]


def markdown(folder: Path) -> str:
    for number, text in enumerate(TEXTS):
        path = folder / "notes" / f"{number % 7}" / f"{number}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Note {number}\n\n{text}")
    (folder / "notes" / "picture.png").write_bytes(bytes(range(256)))
    return "notes"


def code(folder: Path) -> str:
    (folder / "code" / ".git").mkdir(parents=True)
    (folder / "code" / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (folder / "code" / ".gitignore").write_text("build/\n")
    (folder / "code" / "build").mkdir()
    (folder / "code" / "build" / "made.py").write_text("x = 1\n")
    (folder / "code" / "package.json").write_text(json.dumps({"name": "x"}, indent=2))
    for number, text in enumerate(TEXTS):
        (folder / "code" / f"module_{number}.py").write_text(f'"""{text}"""\n\nNUMBER = {number}\n')
    return "code"


def mbox(folder: Path) -> str:
    box = mailbox.mbox(folder / "mail.mbox")
    for number, text in enumerate(TEXTS):
        message = EmailMessage()
        message["Subject"], message["From"] = f"Mail {number}", "me@example.org"
        message.set_content(text)
        box.add(message)
    box.close()
    return "mail.mbox"


def table(folder: Path) -> str:
    with (folder / "Table.CSV").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows(enumerate(TEXTS))
    return "Table.CSV"


def chat(folder: Path) -> str:
    rows = [exchange(t[:40], t) for t in TEXTS]
    pq.write_table(pa.table({"messages": rows}), folder / "chat.parquet")
    return "chat.parquet"


def c4(folder: Path) -> str:
    lines = "".join(
        json.dumps({"text": text, "url": "https://example.org", "timestamp": "2019"}) + "\n" for text in TEXTS
    )
    (folder / "c4-train.00000-of-01024.json.gz").write_bytes(gzip.compress(lines.encode()))
    return "c4-train.00000-of-01024.json.gz"


def array(folder: Path) -> str:
    (folder / "rows.json").write_text(json.dumps([{"meta": {"body": text}} for text in TEXTS], indent=1))
    return "rows.json"


@pytest.mark.parametrize(
    ("write", "more"),
    [
        (markdown, {}),
        (code, {}),
        (mbox, {}),
        (table, {}),
        (chat, {"data.format": "chat"}),
        (c4, {}),
        (array, {"data.text_field": "meta.body"}),
    ],
)
def test_one_command_trains_on_text_as_people_have_it(
    write: Callable[[Path], str], more: dict, run_candlewick, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path)
    settings = {**SETTINGS, "data.train_shards": source, "data.cache_dir": str(tmp_path / "cache"), **more}
    overrides = [word for key, value in settings.items() for word in ("--override", f"{key}={json.dumps(value)}")]
    printed = run_candlewick("train", "--run-dir", "run", *overrides)
    assert "done: 3 steps" in printed.out
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()
    if write is markdown:
        assert "60 files" in printed.err
        assert "left out: 1 binary" in printed.err
    if write is code:
        assert ".py 60" in printed.err
        assert "1 in .gitignore" in printed.err
