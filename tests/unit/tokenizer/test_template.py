"""The chat templates give the ids and the mask of `tokenizer.chat` in transformers."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests import foreign

from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.chat import ANSWER, encode_chat
from candlewick.tokenizer.template import chatml_templates

KINDS = ("ours", "qwen2", "llama3")
CONTENTS = st.text(st.sampled_from("ab the\u00e9\u65e5'.,!2\n\r\t "), max_size=12)
CHATS = st.lists(st.tuples(st.sampled_from(["system", "user", ANSWER]), CONTENTS), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def pairs(tokenizer, tmp_path_factory):
    """Each tokenizer of ours with chat tokens, and what transformers loads from its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        transformers = pytest.importorskip("transformers")
        found = {}
        for kind in KINDS:
            folder = tmp_path_factory.mktemp(kind)
            if kind != "ours":
                foreign.write(kind, folder)
            ours = (tokenizer if kind == "ours" else Tokenizer.load(folder)).with_chat_tokens()
            ours.write(folder)
            found[kind] = ours, transformers.AutoTokenizer.from_pretrained(folder)
        return found


def messages(chat) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in chat]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=200)
@given(chat=CHATS)
@example(chat=[("user", "the of"), (ANSWER, "\n\nimport"), ("user", " a"), (ANSWER, ""), (ANSWER, "\n")])
@example(chat=[("system", "a"), (ANSWER, "  two spaces"), (ANSWER, "\t\na")])
def test_transformers_marks_the_tokens_that_are_learned(pairs, kind, chat):
    ours, theirs = pairs[kind]
    given = theirs.apply_chat_template(
        messages(chat), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = encode_chat(ours, messages(chat))
    assert given["input_ids"] == ids
    marked = given["assistant_masks"]
    if not any(role == ANSWER and content[:1].isspace() for role, content in chat):
        assert marked == mask
    different = [i for i, in_ours, in_theirs in zip(ids, mask, marked, strict=True) if in_ours != in_theirs]
    assert sum(mask) - sum(marked) == len(different)  # white space that begins an answer is learned in ours alone
    assert not b"".join(map(ours.token_bytes, different)).strip()


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=50)
@given(chat=CHATS, is_open=st.booleans())
def test_both_templates_render_the_same_text(pairs, kind, chat, is_open):
    ours, theirs = pairs[kind]
    plain, marked = chatml_templates(ours.roles)
    assert theirs.chat_template == marked
    texts = [
        theirs.apply_chat_template(
            messages(chat), chat_template=template, tokenize=False, add_generation_prompt=is_open
        )
        for template in (plain, marked)
    ]
    assert texts[0] == texts[1]


def test_templates_of_older_checkpoints_become_both(pairs, tmp_path):
    ours, _ = pairs["llama3"]
    plain, marked = chatml_templates(ours.roles)
    ours.write(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    Tokenizer.load(tmp_path).write(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_bytes())["chat_template"] == plain
    assert (tmp_path / "chat_template.jinja").read_text() == marked
