import pytest

from candlewick import errors
from candlewick.errors import CandlewickError


def every_error() -> list[type[CandlewickError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CandlewickError)]


def test_error_message_holds_the_problem_and_the_fix():
    error = CandlewickError("the disk is full", "free 3 GB")
    assert (error.problem, error.fix) == ("the disk is full", "free 3 GB")
    assert str(error) == "the disk is full (fix: free 3 GB)"


def test_error_message_is_one_line_whatever_is_in_it():
    error = CandlewickError("no column x, only a\nb,\u2028c", "look\r\nhere")
    assert str(error) == "no column x, only a b, c (fix: look here)"


@pytest.mark.parametrize("kind", every_error())
def test_error_without_a_fix_is_a_type_error(kind):
    with pytest.raises(TypeError, match="fix"):
        kind("the disk is full")


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_a_documented_exit_code(kind):
    assert kind.exit_code in (1, 2, 3, 4, 5, 6)
    assert kind.__doc__


def test_exit_codes_are_those_of_the_documentation():
    codes = {kind.__name__: kind.exit_code for kind in every_error()}
    assert codes == {
        "CandlewickError": 1,
        "ConfigError": 2,
        "DataError": 3,
        "TokenizerError": 3,
        "CheckpointError": 3,
        "ArtifactError": 3,
        "MachineError": 4,
        "RunInterrupted": 5,
        "RunDiverged": 6,
    }


def test_long_problem_is_shortened_and_keeps_its_ends_and_the_fix():
    text = str(CandlewickError("begin" + "x" * 100_000 + "end", "free 3 GB"))
    assert len(text) < 5000
    assert text.startswith("begin")
    assert text.endswith("xend (fix: free 3 GB)")
