import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlewick.config import DataConfig
from candlewick.data.text.corpus import open_corpus
from candlewick.data.text.documents import TextDefects, read_documents
from candlewick.data.text.holdout import MIN_TAIL_BYTES, assign_splits, choose_holdout, document_split, hash_split


def held(path, **config) -> dict[str, list[str]]:
    """Which text each split gets."""
    corpus = open_corpus([str(path)], DataConfig(**config))
    out: dict[str, list[str]] = {"train": [], "validation": []}
    for piece in assign_splits(corpus, choose_holdout(corpus)):
        assert piece.split is not None
        out[piece.split] += [d.text for d in read_documents(piece, corpus.config, TextDefects())]
    return out


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_split_of_a_document_depends_on_its_hash(text):
    assert document_split(text, 0.5) == document_split(text, 0.5)
    assert document_split(text, 1e-9) == "train"
    assert document_split(text, 1 - 1e-9) == "validation"


def test_split_of_holds_out_the_configured_share():
    n = 4000
    found = sum(document_split(f"document {i}", 0.1) == "validation" for i in range(n))
    assert abs(found - 400) < 5 * (n * 0.1 * 0.9) ** 0.5
    assert hash_split("0" * 64, 0.001) == "validation"
    assert hash_split("f" * 64, 0.999) == "train"


def test_larger_share_holds_out_a_superset():
    texts = [f"document {i}" for i in range(500)]
    small = {t for t in texts if document_split(t, 0.05) == "validation"}
    large = {t for t in texts if document_split(t, 0.2) == "validation"}
    assert small < large


def test_holdout_is_by_tails_below_a_thousand_documents_and_by_hash_from_there(write, tmp_path):
    write("rows.jsonl", [f"row {i}" for i in range(999)])
    corpus = open_corpus([str(tmp_path)], DataConfig())
    assert choose_holdout(corpus) == "tails"
    write("one.txt", "the thousandth")
    corpus = open_corpus([str(tmp_path)], DataConfig())
    assert choose_holdout(corpus) == "hash"


def test_hash_holdout_assigns_files_first_and_rows_while_reading(write, tmp_path):
    for i in range(40):
        write(f"{i}.txt", f"text {i}")
    write("rows.jsonl", ["x"])
    corpus = open_corpus([str(tmp_path)], DataConfig(validation_fraction=0.5))
    found = {piece.file.name: piece.split for piece in assign_splits(corpus, "hash")}
    assert found.pop("rows.jsonl") is None
    assert set(found.values()) == {"train", "validation"}
    again = {piece.file.name: piece.split for piece in assign_splits(corpus, "hash")}
    again.pop("rows.jsonl")
    assert again == found
    assert {piece.split for piece in assign_splits(corpus, "given")} == {"train"}


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_tail_of_a_single_text_is_held_out_after_a_newline(write, name):
    text = "".join(f"line {i} of the text\n" for i in range(20_000))
    found = held(write(name, text), validation_fraction=0.02)
    (train,), (validation,) = found["train"], found["validation"]
    assert train + validation == text
    assert train.endswith("\n")
    assert len(validation) == pytest.approx(0.02 * len(text), abs=40)


def test_tail_of_a_text_without_newlines_is_cut_between_characters(write):
    text = "中文" * 3000
    found = held(write("a.txt", text), validation_fraction=0.2)
    assert found["train"][0] + found["validation"][0] == text
    assert len(found["validation"][0].encode()) == pytest.approx(0.2 * 18_000, abs=3)


def test_holdout_of_many_small_files_takes_few_long_tails(write, tmp_path):
    for i in range(60):
        write(f"{i:02}.txt", "".join(f"{i} {j} some words\n" for j in range(600)))
    found = held(tmp_path, validation_fraction=0.03)
    total = sum(len(text) for split in found.values() for text in split)
    assert sum(map(len, found["validation"])) == pytest.approx(0.03 * total, abs=MIN_TAIL_BYTES)
    assert all(len(text) > MIN_TAIL_BYTES - 100 for text in found["validation"])
    assert len(found["train"]) == 60


@pytest.mark.parametrize("sizes", [[300], [300, 200], [200, 5000]])
def test_holdout_of_very_little_text_is_not_empty(write, tmp_path, sizes):
    for i, size in enumerate(sizes):
        write(f"{i}.txt", "some words\n" * (size // 11))
    found = held(tmp_path, validation_fraction=0.01)
    assert found["train"]
    assert found["validation"]
    assert len("".join(found["validation"])) < 0.5 * sum(sizes)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.jsonl.zst", "a.txt"])
def test_last_rows_of_a_file_are_held_out(write, name):
    rows = [f"row {i}" for i in range(30)]
    content = "\n".join(rows) + "\n\n" if name == "a.txt" else rows
    found = held(write(name, content), validation_fraction=0.1, documents="line")
    assert found == {"train": rows[:27], "validation": rows[27:]}


def test_held_out_rows_add_up_over_files(write, tmp_path):
    for i in range(50):
        write(f"{i:02}.jsonl", [f"{i} a", f"{i} b"])
    found = held(tmp_path, validation_fraction=0.1)
    assert len(found["validation"]) == 10
    assert len(found["train"]) == 90


def test_single_row_is_held_out(write):
    assert held(write("a.jsonl", ["x"])) == {"train": [], "validation": ["x"]}


def test_single_byte_is_for_training(write):
    assert held(write("a.txt", "x")) == {"train": ["x"], "validation": []}
