import pytest
from tests.prepared import plan_run

from candlewick.errors import ConfigError
from candlewick.model.flops import model_size
from candlewick.train.plan import embedding_rows


def test_plan_vocab_size_is_configured_or_rounded_up(tiny):
    plan, model = plan_run(tiny()), tiny().model
    assert (plan.tokenizer.vocab_size, plan.vocab_size) == (300, 320)
    assert embedding_rows(model.replaced(vocab_size=300), plan.tokenizer) == 300
    with pytest.raises(ConfigError, match=r"model\.vocab_size=299 is smaller than the tokenizer's 300 tokens"):
        embedding_rows(model.replaced(vocab_size=299), plan.tokenizer)


def test_plan_with_a_too_small_vocabulary_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"model\.vocab_size=299 is smaller"):
        plan_run(tiny(model={**tiny().model.model_dump(mode="json"), "vocab_size": 299}))


@pytest.mark.parametrize(
    ("end", "steps"),
    [({"total_steps": 12}, 12), ({"total_tokens": 12 * 4 * 32}, 12), ({"total_seconds": 9}, None)],
)
def test_plan_knows_total_steps_before_the_model_is_built(tiny, end, steps):
    plan = plan_run(tiny(scheduler={"total_steps": None, "warmup_steps": 2, **end}))
    assert plan.state.total_steps == steps
    assert model_size(plan.config.model, plan.vocab_size).total == 30_944


def test_validation_splits_have_the_main_one_under_an_empty_name(tiny, text_dir):
    data = {**tiny().data.model_dump(mode="json"), "validation_sets": {"six": [str(text_dir / "06.txt")]}}
    splits = plan_run(tiny(data=data)).data.validation_splits
    assert list(splits) == ["", "six"]
