import os
import random
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from candlewick.data.text import file_ranges
from candlewick.data.text.file_ranges import (
    FileRange,
    RowCut,
    TextFile,
    character_start,
    cut_into_parts,
    find_last_cut,
)
from candlewick.errors import DataError

# letters, digits, marks, and every kind of white space and line end
ALPHABET = (
    "aBéß中文\u017f12!.,'\u0301\u200d\u200b\U0001f600 \n\r\t\v\f\x1c\x85\xa0\u1680\u180e\u2003\u2028\u3000\ufeff"
)
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(ALPHABET), st.sampled_from(["'s", "'LL", "  ", "\r\n", "\n\n", "ab cd", "<|endoftext|>"])
    ),
    max_size=24,
).map("".join)


def pre_tokens(tokenizer, text):
    return [token for token, _ in tokenizer._rust.pre_tokenizer.pre_tokenize_str(text)]


@given(text=TEXTS)
@example("a\n b")
@example("a\n\u3000b")
def test_last_cut_keeps_every_pre_token_and_id(tokenizer, text):
    raw = text.encode()
    while cut := find_last_cut(raw):
        left, right = raw[:cut].decode(), raw[cut:].decode()
        assert pre_tokens(tokenizer, left) + pre_tokens(tokenizer, right) == pre_tokens(tokenizer, left + right)
        assert tokenizer.encode(left) + tokenizer.encode(right) == tokenizer.encode(left + right)
        raw = raw[:cut]


def test_pre_tokens_split_after_a_newline_and_before_a_space(tokenizer):
    """Over all of Unicode's first planes: what the bytes call visible, the pattern calls so too."""
    for first in range(0x21, 0x3100, 64):
        for code in range(first, first + 64):
            for text in (f"a \n\n{chr(code)} b", f"x\n{chr(code)}b"):
                raw = text.encode()
                for cut in [i for i in range(1, len(raw)) if any(p.match(raw, i) for p in file_ranges._SAFE_CUTS)]:
                    left, right = raw[:cut].decode(), raw[cut:].decode()
                    assert pre_tokens(tokenizer, left) + pre_tokens(tokenizer, right) == pre_tokens(
                        tokenizer, text
                    )


def test_last_cut_prefers_spaces_to_newlines():
    assert find_last_cut(b"ab cd\nef") == 2
    assert find_last_cut("中文\n中文".encode()) == 7
    assert find_last_cut("中文\n\u3000中文".encode()) == 0
    assert find_last_cut(b"abc") == 0
    assert find_last_cut(b" a") == 0
    assert find_last_cut(b"") == 0


def test_last_cut_finds_a_position_far_from_the_end():
    assert find_last_cut(b"a b" + b"x" * 100_000) == 1


@given(
    text=st.text(st.sampled_from("ab \n中\U0001f600"), max_size=400),
    block=st.integers(1, 50),
)
def test_parts_join_to_the_text_and_are_bounded(text, block):
    raw = text.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_ranges, "PART_BYTES", 16)
        patch.setattr(file_ranges, "MAX_PART_BYTES", 40)
        found = list(cut_into_parts(raw[i : i + block] for i in range(0, len(raw), block)))
    assert b"".join(part for part, _ in found) == raw
    assert [is_last for _, is_last in found] == [False] * (len(found) - 1) + [True] * bool(found)
    assert all(0 < len(part) <= 40 for part, _ in found)
    for part, _ in found:
        part.decode()  # never inside of a character


@given(text=TEXTS.filter(bool))
def test_parts_encode_to_the_ids_of_the_text(tokenizer, text):
    text = (text + "a word\n") * 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_ranges, "PART_BYTES", 32)
        found = [part.decode() for part, _ in cut_into_parts(iter([text.encode()]))]
    assert len(found) > 1
    assert [i for part in found for i in tokenizer.encode(part)] == tokenizer.encode(text)


def test_character_cut_never_divides_a_character():
    raw = "a中b".encode()
    assert [character_start(raw, i) for i in range(1, 5)] == [1, 1, 1, 4]
    assert character_start(b"\x80" * 10, 8) == 8  # not UTF-8 at all


@pytest.mark.parametrize("extension", ["", ".gz", ".zst", ".bz2", ".xz"])
def test_blocks_join_to_any_range_of_a_file(source, extension):
    raw = bytes(range(1, 128)) * 40 + b"end of the text, number 40"[:40]
    raw = (raw * 2)[:5120]
    file = source(f"a.txt{extension}", raw)
    for start, stop in [(0, None), (0, 10), (7, 4000), (5000, None), (5119, 5120), (30, 30), (6000, None)]:
        assert b"".join(FileRange(file, start, stop).read_blocks(100)) == raw[start:stop]


def test_lines_of_a_piece_are_complete_and_have_offsets(source, monkeypatch):
    monkeypatch.setattr(file_ranges, "BLOCK_BYTES", 10)
    monkeypatch.setattr(FileRange.read_blocks, "__defaults__", (10,))
    raw = b"one\ntwo\na very long line that is longer than a block\n\nlast"
    file = source("a.txt", raw)
    found = list(FileRange(file).read_lines())
    assert b"".join(block for _, block in found) == raw
    for offset, block in found:
        assert raw[offset : offset + len(block)] == block
        assert block.endswith((b"\n", b"last"))
    assert list(FileRange(file, 4, 8).read_lines()) == [(4, b"two\n")]


def test_lines_omit_a_byte_order_mark(source):
    assert list(FileRange(source("a.txt", b"\xef\xbb\xbfone\n")).read_lines()) == [(3, b"one\n")]
    assert list(FileRange(source("b.txt", b"\xef\xbb\xbfone")).read_lines()) == [(3, b"one")]


def test_changed_or_missing_file_is_refused_while_reading(source):
    file = source("a.txt", "text")
    os.utime(file.path, ns=(1, 1))
    with pytest.raises(DataError, match="changed while it was being used"):
        list(FileRange(file).read_blocks())
    file.path.unlink()
    with pytest.raises(DataError, match=r"a\.txt cannot be read: No such file"):
        list(FileRange(file).read_blocks())


def changed(file: TextFile, raw: bytes) -> TextFile:
    file.path.write_bytes(raw)
    status = file.path.stat()
    return replace(file, bytes=status.st_size, modified_ns=status.st_mtime_ns)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.txt.bz2", "a.txt.xz"])
def test_truncated_compressed_file_is_refused_by_name(source, name):
    file = source(name, random.Random(0).randbytes(10_000).hex())
    file = changed(file, file.path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"a\.txt\..* cannot be read: .*it is damaged"):
        list(FileRange(file).read_blocks())


def test_part_of_the_largest_size_is_cut_at_a_safe_position(monkeypatch):
    monkeypatch.setattr(file_ranges, "PART_BYTES", 4)
    monkeypatch.setattr(file_ranges, "MAX_PART_BYTES", 8)
    cut = find_last_cut(b"aaaaa bb")
    assert 4 < cut < 8
    assert list(cut_into_parts(iter([b"aaaaa bb"]))) == [(b"aaaaa bb"[:cut], False), (b"aaaaa bb"[cut:], True)]


def test_compression_of_a_piece_does_not_depend_on_the_file_name(source):
    file = source("a.txt.gz", "text")
    unnamed = file.path.rename(file.path.with_name("blob"))
    assert b"".join(FileRange(replace(file, path=unnamed)).read_blocks()) == b"text"


def test_part_reaches_the_last_safe_place_up_to_its_size(monkeypatch):
    monkeypatch.setattr(file_ranges, "PART_BYTES", 4)
    assert list(cut_into_parts(iter([b"a aa bb"]))) == [(b"a aa", False), (b" bb", True)]
    assert list(cut_into_parts(iter([b"a aa"]))) == [(b"a aa", True)]


def test_parts_and_blocks_are_of_one_and_two_mebibytes(source):
    words = b"some words " * 300_000
    sizes = [len(part) for part, _ in cut_into_parts(iter([words]))]
    assert all((1 << 20) - 16 < size <= 1 << 20 for size in sizes[:-1])
    solid = b"x" * (5 << 20)
    assert [len(part) for part, _ in cut_into_parts(iter([solid]))] == [2 << 20, 2 << 20, 1 << 20]
    assert [len(block) for block in FileRange(source("a.txt", solid)).read_blocks()] == [2 << 20, 2 << 20, 1 << 20]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.txt.bz2", "a.txt.xz"])
def test_a_file_that_grows_too_much_is_refused_before_it_is_decompressed(source, name):
    file = replace(source(name, "x" * (9 << 20)), max_text_bytes=4 << 20)
    seen = 0
    with pytest.raises(DataError, match=r"has \d+ bytes, and more than 4194304 when .*raise data\.max_expansion"):
        for block in FileRange(file).read_blocks():
            seen += len(block)
    assert seen <= 6 << 20
    assert sum(map(len, FileRange(replace(file, max_text_bytes=9 << 20)).read_blocks())) == 9 << 20


def test_a_line_that_is_too_long_is_refused_with_its_place(source):
    file = source("a.txt.gz", "short\n" + "x" * (9 << 20) + "\n")
    with pytest.raises(DataError, match=r"byte 6: a line of more than 4194304 bytes .*data\.max_document_bytes"):
        list(FileRange(file).read_lines(4 << 20))
    assert sum(len(block) for _, block in FileRange(file).read_lines(9 << 20)) == 7 + (9 << 20)


def test_memory_that_is_missing_is_told_in_one_line(source, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(file_ranges, "open_stream", fail)
    with pytest.raises(DataError, match=r"a\.txt cannot be read"):
        list(FileRange(source("a.txt", "x")).read_blocks())


def test_identity_holds_what_decides_the_text_of_a_range(source):
    file = source("a.jsonl", ["x"])
    whole = FileRange(file)
    others = [
        replace(whole, start=1), replace(whole, stop=5), replace(whole, split="train"),
        replace(whole, duplicates=(0,)), replace(whole, cut=RowCut(0, 3, is_end=True)),
        replace(whole, file=replace(file, kind="lines")), replace(whole, file=replace(file, name="b")),
    ]  # fmt: skip
    found = [str(one.identity("0")) for one in (whole, *others)]
    assert len({*found, str(whole.identity("1"))}) == len(others) + 2
    moved = replace(whole, file=replace(file, path=file.path.parent, modified_ns=5))
    assert str(moved.identity("0")) == found[0]
