"""The floor of stories as an instrument: what is below it has seen the text, and the grammar itself lies on it."""

import pytest
from tests.prepared import prepare_tokens
from tests.stories import NGramModel, OracleModel, total_bits

from candlewick.config import DataConfig
from candlewick.data.text.find import open_text
from candlewick.data.text.stories.generate import write_story
from candlewick.data.tokens.dataset import TokenDataset
from candlewick.runs.evaluate import evaluate_checkpoint, story_floor
from candlewick.runs.train import run_training
from candlewick.tokenizer.train import train_tokenizer
from candlewick.train.evaluate import evaluate
from candlewick.train.objective import NextTokenLoss

MAX_BITS = 40
"""A model that was fixed before the text was drawn gets so far below with probability 2^-40 at most (Markov)."""


@pytest.fixture(scope="module")
def byte_tokenizer():
    """A tokenizer of the 256 bytes and special tokens, without merges."""
    return train_tokenizer([write_story(0, 0)], vocab_size=258)[0]


@pytest.fixture(scope="module")
def open_stories(byte_tokenizer, tmp_path_factory):
    """Open COUNT stories of a seed as a split of bytes, read in rows of whole documents."""

    def open_split(count, seed):
        folder = tmp_path_factory.mktemp("stories")
        data = DataConfig(
            train_shards=(f"stories://{count}@{seed}",),
            cache_dir=folder / "cache",
            packing="bfd",
            micro_batch_size=3,
            num_workers=1,
        )
        prepare_tokens(data, byte_tokenizer, folder / "tokens", hold_out=False)
        split = TokenDataset.open(folder / "tokens").split("train")
        assert split.num_documents == count
        return split, data

    return open_split


def bits_below(model, split, data, tokenizer):
    """Return by how many bits the real evaluation of a model is below the true bits of the split."""
    objective = NextTokenLoss(model, num_tokens=tokenizer.vocab_size)
    found = evaluate(objective, split, data, sequence_length=1024, max_tokens=None)
    assert found["eval/tokens"] == split.num_tokens
    floor = story_floor(split, tokenizer)
    assert floor is not None
    return (floor - found["eval/bits_per_byte"]) * split.num_bytes


def test_the_grammar_as_a_model_lies_on_the_floor(open_stories, byte_tokenizer):
    split, data = open_stories(20, 7)
    below = bits_below(OracleModel(byte_tokenizer), split, data, byte_tokenizer)
    assert abs(below / split.num_bytes) < 1e-6
    texts = [write_story(7, number) for number in range(20)]
    expected = total_bits(texts) / sum(len(text.encode()) for text in texts)
    assert story_floor(split, byte_tokenizer) == pytest.approx(expected, abs=1e-12)


def test_no_model_that_was_fixed_before_gets_far_below_the_floor(open_stories, byte_tokenizer):
    training = [write_story(1, number) for number in range(300)]
    split, data = open_stories(12, 8)
    for model in (OracleModel(byte_tokenizer, uniform=0.01), NGramModel(byte_tokenizer, training, 5)):
        assert bits_below(model, split, data, byte_tokenizer) < MAX_BITS


def test_a_model_that_knows_the_validation_text_gets_below_the_floor(open_stories, byte_tokenizer):
    split, data = open_stories(50, 9)
    leak = NGramModel(byte_tokenizer, [write_story(9, number) for number in range(50)], 24)
    assert bits_below(leak, split, data, byte_tokenizer) > 50 * MAX_BITS


def test_a_trained_transformer_gets_below_the_floor_of_the_text_that_it_memorized(tiny, tmp_path):
    folder = tmp_path / "run"
    config = tiny(
        data={
            "train_shards": ["stories://2@3"],
            "validation_shards": ["stories://2@5"],
            "cache_dir": str(tmp_path / "cache"),
            "micro_batch_size": 2,
        },
        tokenizer={"vocab_size": 300},
        model={"hidden_size": 64, "num_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128},
        optimizer={"algorithm": "muon", "learning_rate": 0.02, "adam_learning_rate": 0.02},
        scheduler={"total_steps": 150},
        runtime={"evaluation": {"every_n_steps": None}, "checkpoint": {"every_n_steps": None}},
    )
    run_training(config, folder, resume=False)

    def bits_above(uri):
        data = DataConfig(train_shards=(uri,), cache_dir=tmp_path / "cache", num_workers=1)
        found = evaluate_checkpoint(folder, data, device="cpu")
        (text,) = open_text([uri], data).files
        assert found["eval/above_floor"] == found["eval/bits_per_byte"] - found["eval/floor"]
        return found["eval/above_floor"] * text.bytes

    assert bits_above("stories://2@3") < -MAX_BITS
    assert bits_above("stories://50@4") > -MAX_BITS
