import json

import pytest
from tests import foreign
from tokenizers import processors

from candlewick.errors import TokenizerError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.check import validate_tokenizer
from candlewick.tokenizer.special import DELIMITER, find_roles, template_tokens


def roles(*special: str, template: str | None = None, **settings):
    tree: dict = {}
    if template is not None:
        pieces = [
            {"Sequence": {"id": "A"}} if p == "$A" else {"SpecialToken": {"id": p}} for p in template.split()
        ]
        tree["post_processor"] = {"type": "TemplateProcessing", "single": pieces}
    return find_roles(tree, {name: i for i, name in enumerate(special)}, settings, "it")


def around(found) -> tuple:
    return found.delimiter, found.end


def test_roles_come_from_the_template_then_settings_then_names():
    assert around(roles("<a>", "<b>", "<s>", "</s>", DELIMITER, template="<a> $A <b>", bos_token="<s>")) == (
        "<a>",
        "<b>",
    )
    assert around(roles("<a>", "<b>", "<s>", "</s>", bos_token="<a>", eos_token="<b>")) == ("<a>", "<b>")
    assert around(roles("<s>", "</s>")) == ("<s>", "</s>")
    assert around(roles("<s>", "</s>", DELIMITER)) == (DELIMITER, None)


def test_one_token_may_begin_and_end_a_document():
    assert around(roles("<x>", template="$A <x>")) == ("<x>", None)
    assert around(roles("<x>", eos_token="<x>")) == ("<x>", None)
    assert around(roles("<x>", bos_token="<x>", eos_token="<x>")) == ("<x>", None)


def test_chat_turn_tokens_neither_begin_nor_end_a_document():
    chat = ("<|im_start|>", "<|im_end|>", DELIMITER)
    found = roles(*chat, bos_token="<|im_start|>", eos_token="<|im_end|>")
    assert around(found) == (DELIMITER, None)
    assert found.stops == ("<|im_end|>", DELIMITER)
    assert found.names["bos_token"] == "<|im_start|>"


def test_settings_that_name_ordinary_tokens_are_ignored():
    found = roles("<s>", "</s>", bos_token="<s>", eos_token="word", pad_token={"content": 3}, unk_token=None)
    assert found.names == {"bos_token": "<s>", "eos_token": None, "unk_token": None}
    assert (found.end, found.padding) == ("</s>", None)


def test_padding_comes_from_settings_or_a_known_name():
    assert roles(DELIMITER, "<pad>").padding == "<pad>"
    assert roles(DELIMITER, "<pad>", pad_token=DELIMITER).padding == DELIMITER
    assert roles(DELIMITER).padding is None


@pytest.mark.parametrize(
    ("special", "settings", "said"),
    [
        ((), {}, r"its template \(none\) nor its special tokens \(none\) name one"),
        (("<x>",), {}, r"its special tokens \(<x>\)"),
        (("<x>",), {"template": "<gone> $A"}, r"its template \(<gone> \$A\)"),
        (("<x>", "<y>"), {"template": "<x> <y> $A"}, r"its template \(<x> <y> \$A\)"),
        (("<x>", "<y>"), {"template": "<x> $A <y> <y>"}, "name one token that begins a text"),
    ],
)
def test_tokenizer_without_a_begin_token_is_refused(special, settings, said):
    with pytest.raises(TokenizerError, match=said):
        roles(*special, **settings)


def test_template_of_reads_the_postprocessor():
    for kind, expected in {"candle": "<bos> $A <eos>", "qwen2": "", "llama3": "<|begin_of_text|> $A"}.items():
        tree = json.loads(foreign.KINDS[kind]().to_str())
        assert " ".join(template_tokens(tree)) == expected
        assert validate_tokenizer(tree, "it").special


@pytest.mark.parametrize("kind", ["RobertaProcessing", "BertProcessing"])
def test_processors_of_roberta_and_bert_put_tokens_around_a_text(kind):
    rust = foreign.candle(alphabet=True)
    processor = getattr(processors, kind)
    rust.post_processor = processor(("<eos>", 2), ("<bos>", 1))
    found = Tokenizer(rust.to_str().encode())
    assert found.template == ["<bos>", "$A", "<eos>"]
    assert (found.delimiter_id, found.end_id) == (1, 2)
    ids = found.encode("the of")
    assert rust.encode("the of").ids == [1, *ids, 2]
