"""Text as its tokens come, stop strings and chat templates."""

import json
import sys
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from lm2_jax.data import tokenizer
from lm2_jax.errors import UserError
from lm2_jax.generation.chat import Chat
from lm2_jax.generation.text import (
    ChatTemplate,
    Writer,
    load_chat_template,
    require_chat_template,
)

TEXTS = ["Mary, 'the queen', went to the kitchen. Was it dark?", "Où est Zoë? 日本語 🙂👩‍🚀!",
         "a  b\n\tc ", '"Yes," said John: (really) apple,milk.']
CHARACTERS = st.text(st.sampled_from("ab é日🙂,.'\n\u200d"), max_size=12)


@cache
def sentencepiece():
    """As those of Llama 2: blanks are characters, bytes stand for what is unknown."""
    vocab = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256)),
             *((piece, -2.0) for piece in ("▁", "a", "b", "▁a", "ab", "é", ",", ".", "▁▁", "Mary"))]
    made = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                      decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer.Tokenizer(made)


@cache
def tokens(kind):
    if kind == "sentencepiece":
        return sentencepiece()
    return tokenizer.train(TEXTS, kind=kind, vocab_size=290)


def check(kind, ids):
    """A piece comes as soon as its tokens are whole characters, and no half ones come."""
    writer, shown, decode = Writer(tokens(kind)), "", tokens(kind).decode
    for count, token in enumerate(ids, 1):
        shown += writer.add(token)
        so_far = decode(ids[:count])
        assert shown == so_far or so_far.endswith("\ufffd") and decode(ids).startswith(shown)
    assert shown + writer.close() == decode(ids)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["bpe", "word", "sentencepiece"])
def test_text_appears_as_soon_as_its_characters_are_whole(kind, text):
    check(kind, tokens(kind).encode(text))


@settings(max_examples=50)
@given(st.sampled_from(["bpe", "word", "sentencepiece"]), CHARACTERS)
def test_so_does_any_text(kind, text):
    check(kind, tokens(kind).encode(text))


@settings(max_examples=50)
@given(st.sampled_from(["bpe", "word"]), st.lists(st.integers(0, 255), max_size=12))
def test_pieces_of_any_tokens_are_the_decoded_whole(kind, ids):
    """Also where bytes are no UTF-8, and with special tokens, which are not shown."""
    ids = [i % tokens(kind).vocab_size for i in ids]
    writer = Writer(tokens(kind))
    assert "".join([*map(writer.add, ids), writer.close()]) == tokens(kind).decode(ids)


def cut(text, stops):
    """The text before the stop string that is complete first."""
    for end in range(len(text) + 1):
        for start in range(end):
            if text[start:end] in stops:
                return text[:start], True
    return text, False


@settings(max_examples=200)
@given(st.lists(st.text("abc", min_size=1, max_size=3), max_size=8),
       st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string_and_shows_no_part_of_it(parts, stops):
    writer = Writer(SimpleNamespace(decode=lambda ids: "".join(parts[i] for i in ids)), stops)
    wanted, stopped = cut("".join(parts), stops)
    shown = ""
    for i in range(len(parts)):
        shown += writer.add(i)
        assert wanted.startswith(shown)
        if writer.stopped:
            break
        hidden = "".join(parts[:i + 1])[len(shown):]
        assert not hidden or any(stop.startswith(hidden) for stop in stops)
    assert shown + writer.close() == wanted and writer.stopped == stopped


TEMPLATE = """{% for message in messages %}
  {% if loop.first and message['role'] != 'system' %}
{{ bos_token + 'system|Be kind.' + eos_token }}
  {% endif %}
{{ bos_token + message['role'] + '|' + message['content'] | trim + eos_token }}
{% endfor %}
{% if add_generation_prompt %}{{ bos_token + 'assistant|' }}{% endif %}
"""
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
ASKED = [{"role": "user", "content": "Hi 🙂 "}]


def test_a_template_is_rendered_as_transformers_does():
    template = ChatTemplate(TEMPLATE, SPECIAL, "hf")
    told = "<s>system|Be kind.</s>\n<s>user|Hi 🙂</s>\n"
    assert template.render(ASKED) == told + "<s>assistant|"
    assert template.render(ASKED, add_generation_prompt=False) == told
    said = ChatTemplate("{% for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}"
                        "{% break %}{% endfor %}{{ strftime_now('%Y') | length }}{{ thinks }}",
                        {}, "hf").render(ASKED, thinks=True)
    assert said == json.dumps(ASKED[0], ensure_ascii=False) + "4True"


@pytest.mark.parametrize(("source", "said"), [
    ("{{ raise_exception('roles must alternate') }}", "cannot be filled in: roles must alternate"),
    ("{{ messages.append(1) }}", "not safely callable|unsafe"),
    ("{{ ''.__class__.__mro__ }}", "unsafe"), ("{% if %}", "is not valid, line 1"),
    ("{{ messages[0]['content'] + none }}", "cannot be filled in")])
def test_a_template_that_fails_is_one_line(source, said):
    with pytest.raises(UserError, match=f"^the chat template of hf .*({said})[^\n]*$"):
        ChatTemplate(source, {}, "hf").render(ASKED)


@pytest.mark.parametrize(("name", "content"), [
    ("chat_template.jinja", "X"), ("chat_template.json", {"chat_template": "X"}),
    ("tokenizer_config.json", {"chat_template": "X"}),
    ("tokenizer_config.json", {"chat_template": [{"name": "tools", "template": "Y"},
                                                 {"name": "default", "template": "X"}]})])
def test_a_template_is_found_wherever_it_is_kept(tmp_path, name, content, monkeypatch):
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None}))
    with pytest.raises(UserError, match="has no chat template"):
        require_chat_template(tmp_path)
    if name == "tokenizer_config.json":
        content = content | SPECIAL
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert load_chat_template(tmp_path) == ChatTemplate("X", SPECIAL, str(folder))
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UserError, match=r"pip install 'lm2_jax\[chat\]'"):
        load_chat_template(tmp_path)


class Letters:
    """A tokenizer of single characters."""

    def encode(self, text):
        return list(map(ord, text))


def answer(text, end=""):
    return SimpleNamespace(text=text, tokens=tuple(map(ord, text + end)), state=text)


@pytest.mark.parametrize("said", ["Yes.", " Yes.\n", ""])
@pytest.mark.parametrize("end", ["", "|"])
def test_a_conversation_reads_only_what_is_new(said, end):
    """All that was read is the conversation as the template writes it, whatever ends an answer."""
    source = ("{% for m in messages %}{{ m.role[0] + ':' + m.content | trim + '|' }}{% endfor %}"
              "{{ 'a:' if add_generation_prompt }}")
    template = ChatTemplate(source, {}, "hf")
    chat = Chat(SimpleNamespace(tokenizer=Letters()), template, "book", system="Be kind.")
    messages, read = [{"role": "system", "content": "Be kind."}], ""
    for turn in range(3):
        messages.append({"role": "user", "content": f"Q{turn}?"})
        new = "".join(map(chr, chat.ask(f"Q{turn}?")))
        assert chat.state == ("book" if turn == 0 else said)
        read += new
        stripped = "".join(read.split("\n")).replace(": ", ":")
        assert stripped == template.render(messages) and (turn == 0) == ("kind" in new)
        read += said + end
        chat.answered(answer(said, end or "x" if said == "" else end))
        messages.append({"role": "assistant", "content": said})
        if said == "" and not end:
            return  # an empty answer of a token that is not the template's


def test_a_template_that_changes_earlier_turns_reads_the_conversation_anew():
    source = "{% for m in messages %}{{ m.content if loop.last else '-' }}{% endfor %}"
    chat = Chat(SimpleNamespace(tokenizer=Letters()), ChatTemplate(source, {}, "hf"), "book")
    assert chat.ask("one") == [*map(ord, "one")]
    chat.answered(answer("two"))
    assert chat.ask("three") == [*map(ord, "--three")] and chat.state == "book"
    assert isinstance(np.array(chat.ask("four")), np.ndarray)
