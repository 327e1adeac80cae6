"""Choosing the files of a Hub dataset by path, by its card or by file names."""

import io
from contextlib import suppress

import pytest

from candlewick.data.text import hub_files
from candlewick.data.text.hub_files import _match_globs, card_patterns, choose_files
from candlewick.errors import DataError
from candlewick.hub import HubFile, HubRepo, HubUri, open_repo


def repo(*paths: str, path: str = "") -> HubRepo:
    files = tuple(HubFile(path, 1, None, "") for path in sorted(paths))
    return HubRepo(HubUri("dataset", "o/n", "c" * 40, path), files)


def chosen(found: HubRepo, split: str) -> list[str]:
    return [file.path for file in choose_files(found, split)]


TREE = (
    "data/A/a.parquet",
    "data/A/b.jsonl.gz",
    "data/c.txt",
    "data/x.bin",
    "sample/10BT/a.parquet",
    "top.parquet",
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data", ["data/A/a.parquet", "data/A/b.jsonl.gz", "data/c.txt"]),
        ("data/A/a.parquet", ["data/A/a.parquet"]),
        ("data/*", ["data/A/a.parquet", "data/A/b.jsonl.gz", "data/c.txt"]),  # a folder that matches too
        ("*.parquet", ["top.parquet"]),
        ("**/*.parquet", ["data/A/a.parquet", "sample/10BT/a.parquet", "top.parquet"]),
        ("data/?/a.parquet", ["data/A/a.parquet"]),
        ("data/[A-C]/[a].parquet", ["data/A/a.parquet"]),
        ("data/[B-C]/a.*", []),
        ("sample/10BT", ["sample/10BT/a.parquet"]),
    ],
)
def test_path_of_the_address_wins_over_the_split(path, expected):
    if not expected:
        with pytest.raises(DataError, match="has no text files"):
            chosen(repo(*TREE, path=path), "nonsense")
        return
    assert chosen(repo(*TREE, path=path), "nonsense") == expected


def test_a_path_without_text_names_the_folders_that_have_some():
    with pytest.raises(
        DataError, match=r"/dat has no text files \(6 text files in data, data/A, sample/10BT, top.parquet"
    ):
        choose_files(repo(*TREE, "data/d.txt", path="dat"), "train")
    with pytest.raises(DataError, match=r"of the split 'train' \(0 text files in no folder\)"):
        choose_files(repo("a.bin"), "train")


NAMED = (
    "data/train-00000-of-2.parquet",
    "data/train-00001-of-2.parquet",
    "data/validation-0.parquet",
    "extra.txt",
)


@pytest.mark.parametrize(
    ("paths", "split", "expected"),
    [
        (NAMED, "train", list(NAMED[:2])),
        (NAMED, "validation", [NAMED[2]]),
        (("a.txt", "b.txt.gz"), "train", ["a.txt", "b.txt.gz"]),
        (("a.txt", "test/b.txt", "val_0.txt", "training.txt"), "train", ["a.txt", "training.txt"]),
        (("a.txt", "dev/b.txt", "val_0.txt", "test.txt"), "validation", ["dev/b.txt", "val_0.txt"]),
    ],
)
def test_file_names_select_the_split_without_a_card(paths, split, expected, caplog):
    assert chosen(repo(*paths), split) == expected
    assert not caplog.records


def test_split_in_several_formats_warns(caplog):
    assert chosen(repo("a.jsonl", "a.txt"), "train") == ["a.jsonl", "a.txt"]
    assert "has the split 'train' in several formats (jsonl, txt), maybe the same text twice" in caplog.text


def test_split_without_matching_file_names_is_refused():
    with pytest.raises(DataError, match="of the split 'test'"):
        choose_files(repo("a.parquet"), "test")


@pytest.mark.parametrize(
    ("header", "split", "expected"),
    [
        ("license: mit", "train", None),
        ("configs: text", "train", None),
        ("configs: [text, {config_name: a}]", "train", None),
        ("configs: [{config_name: a, data_files: 'x/*'}]", "train", ["x/*"]),
        ("configs: [{config_name: a, data_files: [a, b]}]", "train", ["a", "b"]),
        ("configs: [{config_name: a, data_files: [a, b]}]", "test", []),
        (
            "configs:\n- config_name: default\n  data_files:\n  - {split: train, path: [a, b]}\n"
            "  - {split: test, path: c}\n- config_name: other\n  data_files: d",
            "train",
            ["a", "b"],
        ),
        (
            "configs:\n- config_name: x\n  data_files: d\n- config_name: y\n  default: true\n"
            "  data_files: [{path: z}, {split: test}]",
            "train",
            ["z"],
        ),
    ],
)
def test_dataset_card_names_the_files_of_a_split(header, split, expected):
    assert card_patterns(f"---\n{header}\n---\n# Words\n", split, "hf://x") == expected


def test_dataset_card_without_a_header_names_no_files():
    assert card_patterns("# Words\n---\nconfigs: [{data_files: x}]\n---\n", "train", "hf://x") is None


@pytest.mark.parametrize("header", ["a: [", "a: !!python/object:os.system {}", "[" * 500])
def test_dataset_card_with_a_malformed_header_is_refused(header):
    with pytest.raises(DataError, match=r"the header of hf://x/README.md cannot be read"):
        card_patterns(f"---\n{header}\n---\n", "train", "hf://x")


def test_dataset_card_with_several_configurations_and_no_default_is_refused():
    header = "configs: [{config_name: en, data_files: a}, {config_name: de, data_files: b}]"
    with pytest.raises(DataError, match="several configurations and no default: en, de .*name the files of one"):
        card_patterns(f"---\n{header}\n---\n", "train", "hf://x")


def test_dataset_card_is_read_from_the_repository(hub):
    card = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*/*\n---\n"
    hub.commit("datasets/o/n", {"README.md": card, "data/a/b.txt": b"1", "data/c.txt": b"2", "d.txt": b""})
    assert chosen(open_repo("hf://datasets/o/n"), "train") == ["data/a/b.txt"]
    with pytest.raises(DataError, match="of the split 'test'"):
        choose_files(open_repo("hf://datasets/o/n"), "test")
    hub.commit("datasets/o/n", {"README.md": b"# no header\n", "test.txt": b"1", "d.txt": b"2"})
    assert chosen(open_repo("hf://datasets/o/n"), "train") == ["d.txt"]


@pytest.mark.parametrize(("size", "is_read"), [(4 << 20, True), ((4 << 20) + 1, False)])
def test_a_card_of_more_than_four_mebibytes_is_not_fetched(monkeypatch, size, is_read):
    asked = []
    monkeypatch.setattr(hub_files, "fetch_file", lambda *arguments: asked.append(arguments) or 1 / 0)
    files = HubFile("README.md", size, None, ""), HubFile("train.txt", 1, None, "")
    with suppress(ZeroDivisionError):
        assert chosen(HubRepo(HubUri("dataset", "o/n", "c" * 40, ""), files), "train") == ["train.txt"]
    assert len(asked) == is_read


def test_a_card_is_utf8_whatever_the_locale_says_and_a_bad_byte_in_it_is_no_error(hub, monkeypatch):
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *_: encoding or "ascii")
    card = "---\nconfigs: [{config_name: a, data_files: größe.txt}]\n---\n".encode() + b"\xff"
    hub.commit("datasets/o/n", {"README.md": card, "größe.txt": b"1", "train.txt": b"2"})
    assert chosen(open_repo("hf://datasets/o/n"), "train") == ["größe.txt"]


def test_so_many_configurations_are_not_all_named():
    names = [f"config_{number:03d}" for number in range(100)]
    header = "configs: [" + ", ".join(f"{{config_name: {name}, data_files: a}}" for name in names) + "]"
    with pytest.raises(DataError) as caught:
        card_patterns(f"---\n{header}\n---\n", "train", "hf://x")
    assert str(caught.value).startswith(
        "hf://x has several configurations and no default: " + ", ".join(names)[:200] + " (fix"
    )


def test_card_with_aliases_is_refused_before_it_grows():
    layers = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    card = f"---\na0: &a0 [x]\n{layers}configs:\n- data_files: *a11\n---\n"
    with pytest.raises(DataError, match="cannot be read: it has aliases"):
        card_patterns(card, "train", "hf://datasets/o/n")


def test_patterns_are_matched_part_by_part():
    files = repo(*(f"{'a/' * 30}{i}.parquet" for i in range(3)), path=f"{'**/a/' * 25}**/nothing").files
    assert not _match_globs(files, [f"{'**/a/' * 25}**/nothing", "a*a*a*a*a*a*a*a*a*b"])
    assert len(_match_globs(files, [f"{'**/a/' * 25}**"])) == 3
    assert len(_match_globs(files, ["**/[0-1].parquet"])) == 2
