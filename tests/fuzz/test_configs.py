"""A short fuzz campaign over random configurations; `python -m tests.fuzz.configs` is the long one."""

from collections import Counter

import pytest
from tests.fuzz import workbench
from tests.fuzz.generator import configuration
from tests.fuzz.workbench import Defect, Workbench

from candlewick.errors import ConfigError
from candlewick.train import build as build_module

COUNT = 200


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "measure_peak_flops", lambda device: 1e12)
        yield Workbench(tmp_path_factory.mktemp("bench"))


def test_random_configuration_runs_or_is_refused_in_one_line(bench):
    outcomes: Counter[str] = Counter()
    for number in range(COUNT):
        suffix, text = configuration(number)
        try:
            outcomes[bench.attempt(suffix, text)] += 1
        except Defect as defect:
            raise AssertionError(f"number {number}, {suffix}:\n{text}\n{defect}") from None
    assert outcomes["ran"] >= 0.3 * COUNT
    assert outcomes["refused"] >= 0.2 * COUNT


@pytest.mark.parametrize(
    "data",
    [
        "{format: chat, deduplicate: true, messages_field: turns}",
        "{format: chat, bad_utf8: skip, mixture: [{shards: [a]}, {shards: [b], weight: 3}]}",
        "{documents: line, bad_utf8: skip, deduplicate: true, validation_shards: [a]}",
        "{documents: line, bad_utf8: error, text_field: body, validation_sets: {web: [a]}}",
        "{mixture: [{shards: [a]}, {shards: [b]}], deduplicate: true}",
    ],
)
def test_workbench_prepares_text_with_the_data_settings_of_a_configuration(bench, data):
    assert bench.attempt(".yaml", f"data: {data}\nscheduler: {{total_steps: 3}}\n") == "ran"


def test_workbench_refuses_text_that_the_data_settings_refuse(bench):
    data = "{bad_utf8: error, mixture: [{shards: [a]}, {shards: [b]}]}"
    assert bench.attempt(".yaml", f"data: {data}\nscheduler: {{total_steps: 3}}\n") == "refused"


@pytest.mark.parametrize(
    "text",
    [
        "model: {max_position_embeddings: 16}\n"
        "runtime: {checkpoint: {init_from: a}}\ndata: {sequence_length: 64}\n",
        "model: {head_dim: 64, partial_rotary_factor: 0.07, rope_scaling: {rope_type: ntk, alpha: 2.0}}\n",
        "data: {micro_batch_size: 6, global_batch_size: 30, batch_ramp: [{steps: 1, global_batch_size: 18}]}\n",
        "data: {micro_batch_size: 3, global_batch_size: 30}\n",
    ],
)
def test_limits_of_the_workbench_keep_a_valid_configuration_valid(bench, text):
    assert bench.attempt(".yaml", text + "scheduler: {total_steps: 3}\n") == "ran"


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), ConfigError("\x1b[31m", "none")])
def test_workbench_reports_a_traceback_or_malformed_message_as_defect(bench, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(workbench, "train_step", fail)
    with pytest.raises(Defect):
        bench.attempt(".yaml", "scheduler: {total_steps: 3}\n")


def test_random_configuration_is_a_function_of_its_number():
    first = [configuration(number) for number in range(50)]
    assert [configuration(number) for number in range(50)] == first
    assert len(set(first)) == 50
