import pytest
import torch

from candlewick.model.documents import Documents


def starts(*rows: str) -> torch.Tensor:
    """A mask from pictures: x begins a document."""
    return torch.tensor([[letter == "x" for letter in row] for row in rows])


def test_positions_restart_per_document_and_ends_are_padded():
    documents = Documents.from_starts(starts("x..x.", "x...."))
    assert documents.positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]]
    assert documents.ends.tolist() == [0, 3, 5, *[10] * 8]
    assert documents.lengths == [3, 2, 5]
    assert documents.positions.dtype == documents.ends.dtype == torch.int32


def test_first_token_of_a_row_always_starts_a_document():
    mask = starts(".....", "..x..")
    documents = Documents.from_starts(mask)
    assert documents.positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]]
    assert documents.lengths == [5, 2, 3]
    assert not mask[0, 0]  # what was given stays as it was


@pytest.mark.parametrize("rows", [("xxxx", "xxxx"), ("x...", "x..."), ("x..x", "xx..")])
def test_shapes_do_not_depend_on_the_number_of_documents(rows):
    documents = Documents.from_starts(starts(*rows))
    assert documents.positions.shape == (2, 4)
    assert documents.ends.shape == (9,)
    assert sum(documents.lengths) == 8


def test_lengths_survive_a_move_to_another_device():
    documents = Documents.from_starts(starts("x.x", "x.."))
    there = documents.to(torch.device("meta"))
    assert there.positions.is_meta
    assert there.ends.is_meta
    assert there.lengths == documents.lengths == [2, 1, 3]
