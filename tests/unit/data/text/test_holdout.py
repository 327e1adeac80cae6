"""Which documents are held out, and that no copy of them is trained on."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlewick.config import DataConfig
from candlewick.data.text.documents import TextDefects, read_documents
from candlewick.data.text.find import open_text
from candlewick.data.text.holdout import (
    HASHED_CHARACTERS,
    MIN_TAIL_BYTES,
    Tails,
    choose_holdout,
    document_split,
    find_ends,
    hold_tails,
    normalize,
)


def open_corpora(*paths, **config):
    return [open_text([str(path)], DataConfig(**config)) for path in paths]


def texts(corpora, tails: Tails) -> dict[str, list[str]]:
    """Which text each split gets."""
    out: dict[str, list[str]] = {"train": [], "validation": []}
    for corpus in corpora:
        for file in corpus.files:
            for piece in tails.ranges[file]:
                assert piece.split is not None
                whole: list[str] = []
                for part in read_documents(piece, corpus.reading, TextDefects()):
                    whole += [""] if part.starts_document or not whole else []
                    whole[-1] += part.text
                out[piece.split] += whole
    return out


def held(*paths, share=0.01, **config) -> dict[str, list[str]]:
    corpora = open_corpora(*paths, **config)
    return texts(corpora, hold_tails(corpora, share))


def size(found: list[str]) -> int:
    return sum(map(len, found))


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_split_of_a_document_depends_on_its_hash(text):
    assert document_split(text, 0.5) == document_split(text, 0.5)
    assert document_split(text, 1e-12) == "train"
    assert document_split(text, 1.0) == "validation"


def test_hashes_hold_out_the_share_and_a_larger_share_holds_out_a_superset():
    n = 4000
    sides = {share: {i for i in range(n) if document_split(f"document {i}", share) == "validation"}
             for share in (0.05, 0.1, 0.2)}  # fmt: skip
    for share, found in sides.items():
        assert abs(len(found) - share * n) < 5 * (n * share * (1 - share)) ** 0.5
    assert sides[0.05] < sides[0.1] < sides[0.2]


@pytest.mark.parametrize(
    "form", ["document {}", "{:06}", "{} words and more", "words {} and {} more", "x" * 60 + "{}"]
)
@pytest.mark.parametrize("seed", [0, 17])
def test_numbered_documents_are_spread_evenly(form, seed):
    for share in (0.01, 0.1, 0.5):
        held_out = sum(document_split(form.format(i, i), share, seed) == "validation" for i in range(10_000))
        assert abs(held_out - 10_000 * share) < 4.5 * (10_000 * share * (1 - share)) ** 0.5


def test_the_seed_decides_which_documents_are_held_out():
    found = [[document_split(f"document {i}", 0.5, seed) for i in range(100)] for seed in (0, 1, 1, 2)]
    assert found[0] != found[1] == found[2] != found[3]


def test_twins_fall_on_one_side():
    """Twins differ in case, white space and punctuation, or between the first and the last 64 bytes of words."""
    body = "".join(f"Word{i}, " for i in range(400))
    for number in range(200):
        text = f"Document {number}: {body}"
        side = document_split(text, 0.5)
        for twin in (
            text.upper(), text.replace(" ", "\n  "), text.replace(",", ";"), f"  {text}\n",
            text.replace("Word200", "another"), text[:600] + text[1500:], f'"{text}"', text.replace(" ", " " * 99),
        ):  # fmt: skip
            assert document_split(twin, 0.5) == side
    assert normalize("Ab\n C-d\t_é") == "abcdé".encode()
    assert normalize("a\ud800") == b"a?".translate(None, b"?")


def test_white_space_is_dropped_before_the_text_is_cut():
    """The end of a document of 2,048 spaces and a text was not hashed."""
    for indent in (1, 300, 3000, 30_000):
        assert find_ends(" " * indent + "a" * 70 + " " * indent + "b" * 70) == b"a" * 64 + b"\n" + b"b" * 64
    assert find_ends("Ä" * 500 + "b" * 500) == "ä".encode() * 32 + b"\n" + b"b" * 64
    assert [find_ends(text) for text in ("", "--", "A b", "a" * 100)] == [
        b"\n", b"\n", b"ab\nab", b"a" * 64 + b"\n" + b"a" * 64,
    ]  # fmt: skip


def test_of_a_very_long_document_its_first_characters_count():
    text = "中" * HASHED_CHARACTERS
    assert find_ends(text + "end") == find_ends(text) != find_ends(text[:-1] + "end")


@pytest.mark.parametrize(
    ("head", "tail"), [("licence " * 900, ""), ("", " end" * 900), ("a prompt " * 9, "bye " * 9)]
)
def test_documents_with_a_common_beginning_or_end_fall_on_both_sides(head, tail):
    held_out = [document_split(f"{head}{i}{tail}", 0.5) for i in range(200)].count("validation")
    assert 70 < held_out < 130


def test_short_texts_that_differ_have_hashes_of_their_own():
    assert len({document_split(f"{i}", 0.5) for i in range(20)}) == 2


def test_holdout_is_by_tails_below_a_thousand_documents_and_by_hash_from_there(write, tmp_path):
    write("a/rows.jsonl", [f"row {i}" for i in range(998)] + ["", None])
    assert choose_holdout(open_corpora(tmp_path / "a")) == "tails"
    write("b/1.txt", "the 999th")
    assert choose_holdout(open_corpora(tmp_path / "a", tmp_path / "b")) == "tails"
    write("b/2.txt", "the thousandth")
    assert choose_holdout(open_corpora(tmp_path / "a", tmp_path / "b")) == "hash"


def test_parts_of_a_long_document_count_once(write, monkeypatch):
    for module in ("documents", "file_ranges"):
        monkeypatch.setattr(f"candlewick.data.text.{module}.PART_BYTES", 64)
    assert choose_holdout(open_corpora(write("a.jsonl", ["some words " * 1000] * 6))) == "tails"


def test_text_of_the_hub_is_held_out_by_hash(hub):
    hub.commit("datasets/o/n", {"a.txt": b"x"})
    assert choose_holdout([open_text(["hf://datasets/o/n"], DataConfig())]) == "hash"


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.md"])
def test_tail_of_a_single_text_is_held_out_after_a_newline(write, name):
    text = "".join(f"line {i} of the text\n" for i in range(20_000))
    found = held(write(name, text), share=0.02)
    (train,), (validation,) = found["train"], found["validation"]
    assert train + validation == text
    assert train.endswith("\n")
    assert len(validation) == pytest.approx(0.02 * len(text), abs=40)


def test_tail_of_a_text_without_newlines_is_cut_between_characters(write):
    text = "中文" * 3000
    found = held(write("a.txt", text), share=0.2)
    assert found["train"][0] + found["validation"][0] == text
    assert len(found["validation"][0].encode()) == pytest.approx(0.2 * 18_000, abs=3)


def test_holdout_of_many_small_files_takes_few_long_tails(write, tmp_path):
    for i in range(60):
        write(f"{i:02}.txt", "".join(f"{i} {j} some words\n" for j in range(600)))
    found = held(tmp_path, share=0.03)
    total = size(found["train"]) + size(found["validation"])
    assert size(found["validation"]) == pytest.approx(0.03 * total, abs=MIN_TAIL_BYTES)
    assert all(len(text) > MIN_TAIL_BYTES - 100 for text in found["validation"])
    assert len(found["train"]) == 60


@pytest.mark.parametrize("sizes", [[300], [300, 200], [200, 5000]])
def test_holdout_of_very_little_text_is_not_empty(write, tmp_path, sizes):
    for i, length in enumerate(sizes):
        write(f"{i}.txt", f"some words {i}\n" * (length // 13))
    found = held(tmp_path)
    assert found["train"]
    assert found["validation"]
    assert size(found["validation"]) < 0.5 * sum(sizes)


def test_a_file_without_documents_is_held_out_nowhere(write):
    paths = [
        write(name, content) for name, content in (("a.jsonl", [None, ""]), ("b.json", "[]"), ("c.txt", "\n"))
    ]
    assert held(*paths, documents="line") == {"train": [], "validation": []}
    assert held(*paths, write("d.jsonl", ["one", "two"]), documents="line", share=0.5)["validation"] == ["two"]


def test_single_byte_is_for_training(write):
    assert held(write("a.txt", "x")) == {"train": ["x"], "validation": []}


def test_the_tail_of_one_text_is_the_share_to_the_byte(write):
    found = held(write("a.txt", "x" * 10_000), share=0.3)
    assert [len(found[split][0]) for split in ("train", "validation")] == [7000, 3000]
    assert len(held(write("a.txt", "x" * 10_000), share=0.9)["validation"][0]) == 5000


def test_tails_of_texts_add_up_to_the_share_to_the_byte(write, tmp_path):
    for name in "abc":
        write(f"{name}.txt", name * 10_000)
    found = held(tmp_path, share=0.15)
    # of the first 1,500 bytes are owed, too few for a tail; of both 3,000; of the last 1,500 again
    assert [len(text) for text in found["train"]] == [10_000, 7000, 10_000]
    assert [len(text) for text in found["validation"]] == [3000]


def test_a_short_tail_is_held_out_only_if_nothing_else_is(write, tmp_path):
    write("a.txt", "x" * 30_000)
    write("b.txt", "x" * 300)
    assert [len(text) for text in held(tmp_path, share=0.1)["validation"]] == [3000]


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
    found = held(write("a.txt", "".join(text)), share=0.3)
    assert len(found["train"][0]) == 7000 + moved


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.jsonl.zst", "a.txt", "a.json", "a.csv"])
def test_last_rows_of_a_file_are_held_out_by_their_size(write, name):
    rows = [f"row {i:02}" for i in range(30)]
    contents = {"a.txt": "\n".join(rows) + "\n\n", "a.csv": "\n".join(["text", *rows]),
                "a.json": "[" + ",".join(f'{{"text": "{row}"}}' for row in rows) + "]"}  # fmt: skip
    found = held(write(name, contents.get(name, rows)), share=0.1, documents="line")
    assert found == {"train": rows[:27], "validation": rows[27:]}


@pytest.mark.parametrize(("last", "count"), [(1500, 2), (1501, 1)])
def test_rows_are_held_out_up_to_half_as_much_again_as_wanted(write, last, count):
    sizes = [*[1700] * 9, 3200 - last, 1500, last]  # 20,000 in all, of which 2,000 are wanted
    sizes[0] = 20_000 - sum(sizes[1:])
    found = held(write("a.jsonl", [f"{i:02}" + "x" * (size - 2) for i, size in enumerate(sizes)]), share=0.1)
    assert len(found["validation"]) == count


def test_empty_rows_at_the_end_do_not_count(write):
    rows = [f"row {i:02}" for i in range(49)]
    found = held(write("a.jsonl", [*rows, ""]), share=0.1)
    assert found == {"train": rows[:44], "validation": rows[44:]}
    assert held(write("b.jsonl", [*rows, "", None, ""]))["validation"] == rows[44:]  # a tenth, of very little text


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.csv", "a.txt"])
def test_one_row_with_a_whole_book_is_cut_like_a_file(write, name):
    book = "".join(f"Sentence {i} of the book.   " for i in range(4000))
    contents = {"a.json": f'[{{"text": "{book}"}}]', "a.csv": f'text\n"{book}"\n', "a.txt": book + "\n\n"}
    found = held(write(name, contents.get(name, [book])), documents="line")
    assert [len(split) for split in found.values()] == [1, 1]
    assert found["train"][0] + found["validation"][0] == book
    assert len(found["validation"][0]) == pytest.approx(MIN_TAIL_BYTES, rel=0.05)
    assert found["train"][0].endswith(" ")


def test_two_uneven_rows_give_a_tail_of_the_large_one(write):
    """Five bytes were all that was trained on, and 91,427 held out."""
    large = "words and more of them\n" * 3975
    for rows in (["small", large], [large, "small"]):
        found = held(write("a.jsonl", rows))
        assert size(found["train"]) > 0.97 * len(large)
        assert 0 < size(found["validation"]) < 0.03 * len(large)
        assert size(found["train"]) + size(found["validation"]) == len(large) + 5


def test_held_out_rows_add_up_over_files(write, tmp_path):
    for i in range(50):
        write(f"{i:02}.jsonl", [f"{i:02} a", f"{i:02} b"])
    found = held(tmp_path, share=0.1)
    assert len(found["validation"]) == 10
    assert len(found["train"]) == 90


def test_a_single_word_is_for_training_or_cut(write):
    found = held(write("a.jsonl", ["x"]))
    assert found == {"train": ["x"], "validation": []}


def test_copies_of_what_another_source_holds_out_are_not_trained_on(write):
    rows = [f"document {i} of the first source" for i in range(60)]
    others = [f"of the second source, {i}" for i in range(60)]
    first = write("a.jsonl", rows)
    second = write("b.jsonl", [row.upper() + " !" for row in rows] + others)
    corpora = open_corpora(first, second)
    tails = hold_tails(corpora, 0.1)
    found = texts(corpora, tails)
    trained = {normalize(text) for text in found["train"]}
    assert len(found["validation"]) > 10
    assert not trained & {normalize(text) for text in found["validation"]}
    assert sum(tails.copies.values()) == 6
    assert len(found["train"]) + len(found["validation"]) == 180 - 6


def test_copies_inside_of_one_file_are_not_trained_on(write):
    rows = [f"row {i:02}" for i in range(40)]
    corpora = open_corpora(write("a.jsonl", [*rows, "Row 07"]))
    tails = hold_tails(corpora, 0.1)
    found = texts(corpora, tails)
    assert (found["validation"], sum(tails.copies.values())) == ([*rows[36:], "Row 07"], 1)
    assert found["train"] == [row for row in rows[:36] if row != "row 07"]


def test_a_copied_file_is_cut_at_the_same_place(write):
    text = "".join(f"line {i} of the text\n" for i in range(2000))
    paths = [write("a/x.txt", text), write("b/other.txt", "another text\n" * 500), write("c/copy.md", text)]
    corpora = open_corpora(*paths)
    tails = hold_tails(corpora, 0.1)
    cuts = [tails.ranges[corpora[i].files[0]][0].stop for i in (0, 2)]
    assert cuts[0] == cuts[1]
    assert cuts[0] is not None


def test_a_book_in_one_row_is_cut_where_its_copy_is(write):
    book = "".join(f"Sentence {i} of the book. " for i in range(4000))
    small = [f"row {i}" for i in range(200)]
    for others in ([book], [*small, book.upper()], [book, *small]):
        found = held(write("a.jsonl", [book]), write("b.jsonl", others), share=0.03)
        trained = "\n".join(found["train"]).lower()
        assert found["validation"]
        for text in found["validation"]:
            assert text.lower() not in trained


def test_documents_that_are_left_out_are_not_held_out(write):
    """Else the one that stays would be dropped as a copy of them."""
    (corpus,) = open_corpora(write("a.jsonl", [*(f"row {i:02}" for i in range(40)), "row 00", "row 01"]))
    positions = np.array([part.position for part in corpus.documents()][-2:])
    corpus = replace(corpus, duplicates={corpus.files[0]: positions})
    tails = hold_tails([corpus], 0.1)
    assert not any(tails.copies.values())
    found = texts([corpus], tails)
    assert found["validation"][:4] == [f"row {i:02}" for i in range(36, 40)]
    assert found["train"] == [f"row {i:02}" for i in range(36)]


def test_many_files_of_large_rows_give_few_long_tails(write, tmp_path):
    for i in range(40):
        write(f"{i:02}.jsonl", [f"{i} some words\n" * 3000])
    found = held(tmp_path, share=0.01)
    assert all(len(text) > MIN_TAIL_BYTES - 100 for text in found["validation"])
    total = size(found["train"]) + size(found["validation"])
    assert size(found["validation"]) == pytest.approx(0.01 * total, rel=0.2)


def test_chats_are_held_out_whole(write):
    row = '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "%s"}]}\n'
    path = write("a.jsonl", "".join(row % (f"question {i:02}", "answer " * 5) for i in range(20)))
    corpora = open_corpora(path, format="chat")
    tails = hold_tails(corpora, 0.1)
    first, last = tails.ranges[corpora[0].files[0]]
    assert (first.split, last.split, first.cut, last.cut) == ("train", "validation", None, None)
    assert first.stop == last.start
    lone = open_corpora(write("b.jsonl", row % ("q", "answer " * 1000)), format="chat")
    assert [one.split for one in hold_tails(lone, 0.1).ranges[lone[0].files[0]]] == ["train"]
