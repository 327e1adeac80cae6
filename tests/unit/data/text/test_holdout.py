from dataclasses import replace

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


def test_the_tail_of_one_text_is_the_share_to_the_byte(write):
    found = held(write("a.txt", "x" * 10_000), validation_fraction=0.3)
    assert [len(found[split][0]) for split in ("train", "validation")] == [7000, 3000]


def test_tails_of_texts_add_up_to_the_share_to_the_byte(write, tmp_path):
    for name in "abc":
        write(f"{name}.txt", "x" * 10_000)
    found = held(tmp_path, validation_fraction=0.15)
    # of the first 1,500 bytes are owed, too few for a tail; of both 3,000; of the last 1,500 again
    assert [len(text) for text in found["train"]] == [10_000, 7000, 10_000]
    assert [len(text) for text in found["validation"]] == [3000]


def test_a_tail_of_the_least_length_is_held_out_and_a_shorter_one_is_not(write, tmp_path):
    for name in "ab":
        write(f"{name}.txt", "x" * 20_480)
    assert [len(text) for text in held(tmp_path, validation_fraction=0.1)["validation"]] == [2048, 2048]
    assert [len(text) for text in held(tmp_path, validation_fraction=0.0999)["validation"]] == [4092]


@pytest.mark.parametrize(
    ("newlines", "moved"),
    [
        ([], 0), ([-1025], 0), ([-1024], -1023), ([-900], -899), ([-1], 0), ([0], 1), ([900], 901), ([1022], 1023),
        ([1023], 0), ([-10, 5], 6), ([-5, 10], -4), ([-8, -5, 10, 12], -4),
    ],
)  # fmt: skip
def test_a_cut_moves_to_the_nearest_end_of_a_line_within_a_kilobyte(write, newlines, moved):
    text = ["x"] * 10_000
    for place in newlines:
        text[7000 + place] = "\n"
    found = held(write("a.txt", "".join(text)), validation_fraction=0.3)
    assert len(found["train"][0]) == 7000 + moved


def test_the_first_line_of_a_very_short_text_may_be_all_that_is_trained_on(write):
    assert held(write("a.txt", "\nxxxxxxxxx"), validation_fraction=0.5)["train"] == ["\n"]


def test_no_more_than_half_of_a_text_is_held_out(write):
    assert len(held(write("a.txt", "x" * 10_000), validation_fraction=0.9)["validation"][0]) == 5000


def test_a_short_tail_is_held_out_only_if_nothing_else_is(write, tmp_path):
    write("a.txt", "x" * 30_000)
    write("b.txt", "x" * 300)
    assert [len(text) for text in held(tmp_path, validation_fraction=0.1)["validation"]] == [3000]


def test_a_hash_on_the_border_is_for_training():
    assert hash_split("8" + "0" * 63, 0.5) == "train"
    assert hash_split("7" + "f" * 63, 0.5) == "validation"


@pytest.mark.parametrize(("rows", "chosen"), [(1004, "tails"), (1005, "hash")])
def test_documents_that_are_left_out_do_not_count_for_the_choice(write, rows, chosen):
    corpus = open_corpus([str(write("rows.jsonl", [f"row {i}" for i in range(rows)]))], DataConfig())
    dropped = {corpus.files[0]: tuple(range(5))}
    assert choose_holdout(replace(corpus, duplicates=dropped)) == chosen
