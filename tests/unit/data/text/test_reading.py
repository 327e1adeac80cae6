from candlewick.config import DataConfig
from candlewick.data.text.reading import Reading


def test_reading_takes_the_field_of_its_format_and_the_rules_of_a_config():
    config = DataConfig(text_field="body", messages_field="turns", documents="line", bad_utf8="skip")
    assert Reading.from_config(config) == Reading("text", "line", "body", "skip")
    assert Reading.from_config(config.replaced(format="chat")).field == "turns"
    limits = Reading.from_config(DataConfig(bad_rows="skip", max_document_bytes=1 << 20, max_expansion=7))
    assert (limits.bad_rows, limits.max_document_bytes, limits.max_expansion) == ("skip", 1 << 20, 7)
    assert Reading.from_config(DataConfig()) == Reading()


def test_max_text_bytes_is_the_expansion_but_64_mebibytes_of_small_files():
    assert Reading(max_expansion=10).max_text_bytes(1 << 30) == 10 << 30
    assert Reading(max_expansion=10).max_text_bytes(1) == 64 << 20
