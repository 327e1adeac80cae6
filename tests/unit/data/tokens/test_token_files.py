"""Files of tokens of other programs, written here as their formats say, become the same documents."""

import itertools
import struct

import numpy as np
import pytest
from tests.prepared import prepare_tokens

from candlewick.config import DataConfig
from candlewick.data.text.file_ranges import FileRange
from candlewick.data.text.find import open_text
from candlewick.data.tokens.dataset import TokenDataset
from candlewick.data.tokens.token_files import TokenFile
from candlewick.errors import DataError

DOCUMENTS = [[5, 6, 7], [8], [9, 10, 11, 12], [13, 14]]


def nanogpt(path, documents, dtype="<u2"):
    """Write ids with the delimiter behind each document."""
    np.array([token for document in documents for token in (*document, 0)], dtype).tofile(path)
    return path


def llmc(path, documents, dtype="<u2", magic=(20240520, 1)):
    """Write a header of 256 numbers, and the delimiter before each document."""
    ids = np.array([token for document in documents for token in (0, *document)], dtype)
    header = np.zeros(256, "<i4")
    header[:3] = *magic, ids.size
    path.write_bytes(header.tobytes() + ids.tobytes())
    return path


def megatron(path, documents, *, end=None, dtype="<i4", code=4):
    """Write NAME.bin and NAME.idx, each document one sequence, with or without a token at its end."""
    texts = [[*document, end] if end is not None else document for document in documents]
    np.array([token for text in texts for token in text], dtype).tofile(path)
    sizes = np.array([len(text) for text in texts], "<i4")
    pointers = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype("<i8") * np.dtype(dtype).itemsize
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(texts), len(texts) + 1)
    places = np.arange(len(texts) + 1, dtype="<i8")
    path.with_suffix(".idx").write_bytes(head + sizes.tobytes() + pointers.tobytes() + places.tobytes())
    return path


WRITERS = {
    "nanogpt": nanogpt,
    "llmc": llmc,
    "llmc of llama": lambda path, documents: llmc(path, documents, "<u4", (20240801, 7)),
    "megatron": megatron,
    "megatron with ends": lambda path, documents: megatron(path, documents, end=0),
    "megatron uint16": lambda path, documents: megatron(path, documents, dtype="<u2", code=8),
    "megatron int64": lambda path, documents: megatron(path, documents, dtype="<i8", code=5),
}


def config(path, **settings) -> DataConfig:
    text = {"format": "tokens", "train_shards": (str(path),), "shard_text_bytes": 1 << 16, "num_workers": 1}
    return DataConfig(**{**text, **settings})


def documents_of(folder, name) -> list[list[int]]:
    split = TokenDataset.open(folder).split(name)
    ids = split.read_tokens(0, split.num_tokens).tolist()
    starts = [place for place, token in enumerate(ids) if token == 0]
    return [ids[low + 1 : high] for low, high in zip(starts, [*starts[1:], len(ids)], strict=True)]


@pytest.mark.parametrize("name", WRITERS)
def test_documents_are_those_that_were_written(name, tokenizer, tmp_path, core_row):
    path = WRITERS[name](tmp_path / "a.bin", DOCUMENTS)
    settings = config(path, validation_shards=(str(nanogpt(tmp_path / "val.bin", DOCUMENTS[:2])),))
    manifest, _ = prepare_tokens(settings, tokenizer, tmp_path / "out")
    found = documents_of(tmp_path / "out", "train")
    differ = sum(document not in found for document in DOCUMENTS) + abs(len(found) - len(DOCUMENTS))
    core_row("data.format=tokens", "what nanoGPT, llm.c or Megatron wrote, documents that differ", differ, 0)
    core_row("data.token_dtype=uint16", "numpy, documents that differ", differ, 0)
    assert found == DOCUMENTS
    assert documents_of(tmp_path / "out", "validation") == DOCUMENTS[:2]
    assert manifest.details["splits"]["train"]["documents"] == len(DOCUMENTS)
    assert manifest.details["splits"]["train"]["text_bytes"] == sum(
        len(tokenizer.token_bytes(token)) for document in DOCUMENTS for token in document
    )


@pytest.mark.parametrize("name", WRITERS)
def test_pieces_of_any_size_join_to_the_whole(name, tokenizer, tmp_path):
    choose = np.random.default_rng(3)
    documents = [choose.integers(1, 400, choose.integers(1, 30)).tolist() for _ in range(50)]
    path = WRITERS[name](tmp_path / "a.bin", documents)
    (file,) = open_text([str(path)], config(path)).files
    source = TokenFile.open(file, "uint16")
    for piece in (1, 2, 7, 100, 10_000):
        bounds = [*range(0, source.ids.size, piece), source.ids.size]
        found: list[int] = []
        ends: list[int] = []
        for low, high in itertools.pairwise(bounds):
            part = FileRange(file, low, high, starts_document=low == 0, ends_document=high == source.ids.size)
            ids, own_ends = source.read(part, 0, 500)
            ends += [len(found) + int(end) for end in own_ends]
            found += ids.tolist()
        while found and found[-1] == 0:  # a delimiter at the end of a file, cut from what is before it
            found.pop()
        assert found == [token for document in documents for token in (0, *document)]
        assert set(np.cumsum([1 + len(document) for document in documents]).tolist()) >= set(ends) - {0}


def test_end_of_a_file_is_held_out(tokenizer, tmp_path):
    ids = np.arange(2000) % 300 + 1
    path = nanogpt(tmp_path / "a.bin", [ids.tolist()])
    prepare_tokens(config(path, validation_fraction=0.1), tokenizer, tmp_path / "out")
    (train,), (held,) = (documents_of(tmp_path / "out", name) for name in ("train", "validation"))
    assert [*train, *held] == ids.tolist()
    assert len(held) == 200


def test_ids_that_the_tokenizer_lacks_and_other_files_are_refused(tokenizer, tmp_path):
    def prepare(path, **settings):
        prepare_tokens(config(path, **settings), tokenizer, tmp_path / "out")

    with pytest.raises(DataError, match="has ids from 3 to 600, the tokenizer has 500"):
        prepare(nanogpt(tmp_path / "a.bin", [[3, 600, 3]][:1]) and _without_delimiters(tmp_path / "a.bin"))
    (tmp_path / "odd.bin").write_bytes(b"abc")
    with pytest.raises(DataError, match="has 3 bytes of ids, not a multiple of 2"):
        prepare(tmp_path / "odd.bin")
    path = llmc(tmp_path / "cut.bin", DOCUMENTS)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match="its header says 14"):
        prepare(path)
    path = megatron(tmp_path / "m.bin", DOCUMENTS)
    path.write_bytes(path.read_bytes() + bytes(4))
    with pytest.raises(DataError, match=r"m\.bin has 11 tokens, m\.idx says 10 .*get both again"):
        prepare(path)
    path = megatron(tmp_path / "m.bin", DOCUMENTS)
    index = path.with_suffix(".idx").read_bytes()
    for damage in (index[:40], index[:17] + b"\x07" + index[18:], index[:-9]):
        path.with_suffix(".idx").write_bytes(damage)
        with pytest.raises(DataError, match="cut or damaged|tokens of type"):
            prepare(path)


def test_another_index_is_another_dataset(tokenizer, tmp_path):
    path = megatron(tmp_path / "m.bin", DOCUMENTS)
    settings = config(path, validation_fraction=0.5)
    (before,) = open_text([str(path)], settings).files
    ids = [prepare_tokens(settings, tokenizer, tmp_path / "a")[0].id]
    other = megatron(tmp_path / "other.bin", [[5, 6], [7, 8], [9, 10, 11, 12], [13, 14]])
    assert other.read_bytes() == path.read_bytes()  # the same tokens in other documents
    path.with_suffix(".idx").write_bytes(other.with_suffix(".idx").read_bytes())
    with pytest.raises(DataError, match=r"m\.idx changed while it was being used"):
        TokenFile.open(before, "uint16")
    ids += [prepare_tokens(settings, tokenizer, tmp_path / "a")[0].id]
    path.with_suffix(".idx").unlink()
    ids += [prepare_tokens(settings, tokenizer, tmp_path / "c")[0].id]
    assert len({*ids}) == 3


def _without_delimiters(path):
    np.array([3, 600, 3], "<u2").tofile(path)
    return path


def test_ids_of_32_bits_are_read_as_they_are_named(tokenizer, tmp_path, core_row):
    path = nanogpt(tmp_path / "a.bin", DOCUMENTS, "<u4")
    settings = config(path, token_dtype="uint32", validation_shards=(str(path),))
    prepare_tokens(settings, tokenizer, tmp_path / "out")
    found = documents_of(tmp_path / "out", "train")
    core_row("data.token_dtype=uint32", "numpy, documents that differ", float(found != DOCUMENTS), 0)
