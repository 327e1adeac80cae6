"""The chat templates of ChatML, in Jinja, with which other programs give the ids of `tokenizer.chat`.

    tokenizer_config.json    the plain one, which all readers know
    chat_template.jinja      the same text, with {% generation %} around what is learned: transformers prefers it,
                             return_assistant_tokens_mask=True then gives our mask (assistant_only_loss of TRL)

White space that begins an answer is not marked: the token that it shares with the line end before is not learned,
and where the offsets of tokens leave white space out (Llama 3), transformers would mark nothing from there on.
"""

from candlewick.tokenizer.special import Roles

_MESSAGE = "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
_MARKED = (
    "{% if message['role'] == 'assistant' %}{% set text = message['content'] %}"
    "{% set start = text|length - text.lstrip()|length %}{{ '<|im_start|>assistant\\n' + text[:start] }}"
    "{% generation %}{{ text[start:] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    f"{{% else %}}{_MESSAGE}{{% endif %}}"
)


def chatml_templates(roles: Roles) -> tuple[str, str]:
    """Return the plain template, and the one that marks what is learned."""
    start = "bos_token" if roles.names["bos_token"] == roles.delimiter else repr(roles.delimiter)
    ending = "" if roles.end is None else f"{{% else %}}{{{{ {roles.end!r} }}}}"
    last = f"{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\\n' }}}}{ending}{{% endif %}}"
    plain, marked = (
        f"{{{{ {start} }}}}{{% for message in messages %}}{each}{{% endfor %}}{last}"
        for each in (_MESSAGE, _MARKED)
    )
    return plain, marked
