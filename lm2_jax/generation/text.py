"""From new tokens to text, as they come, and from the messages of a chat to a prompt."""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lm2_jax.checkpoint.workdir import SOURCE
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.errors import UserError
from lm2_jax.runtime import paths

_INCOMPLETE = "\ufffd"  # what the bytes of a part of a character are decoded as


class Writer:
    """Turns the tokens of one text into pieces that can be shown at once.

    A piece has whole characters only. It never has the beginning of a stop string: what may be one
    is kept back until the next tokens tell. The pieces together are the decoded text, up to the
    first stop string.

    Attributes:
      stopped: whether a stop string has come. Of several ones, the first that is complete counts.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self._decode, self._stop, self.stopped = tokenizer.decode, stop, False
        self._ids: list[int] = []  # those of the last piece, which the next one may depend on
        self._new: list[int] = []  # those after it
        self._held = ""  # text that may begin a stop string

    def add(self, token: int) -> str:
        """Returns the text that can be shown after one more token; "" while there is none."""
        self._new.append(token)
        text = self._text()
        if not text or text.endswith(_INCOMPLETE):
            return ""
        self._ids, self._new = self._new, []
        return self._up_to_stop(text)

    def close(self) -> str:
        """Returns the text that was kept back, when no more tokens follow."""
        if self.stopped:
            return ""
        text = self._up_to_stop(self._text()) + self._held
        self._held = ""
        return text

    def _text(self) -> str:
        """Returns the text of the new tokens, with the blank that they may have after others."""
        return self._decode(self._ids + self._new)[len(self._decode(self._ids)):]

    def _up_to_stop(self, text: str) -> str:
        text, self._held = self._held + text, ""
        found = [(start + len(stop), start) for stop in self._stop
                 if (start := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[:min(found)[1]]
        longest = max(map(len, self._stop), default=0)
        for start in range(max(len(text) - longest + 1, 0), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stop):
                self._held = text[start:]
                return text[:start]
        return text


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template of the transformers library, rendered in a sandbox as it does.

    Attributes:
      source: in jinja2.
      special_tokens: {name: token}, such as "bos_token".
      where: names the file in messages.
    """

    source: str
    special_tokens: Mapping[str, str]
    where: str

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True,
               **variables: Any) -> str:
        """Returns the text of a chat. It has all special tokens, so that no BOS is added to it.

        Args:
          messages: each has "role" and "content".
          add_generation_prompt: ends with what comes before an answer.
          variables: others that the template knows, such as `enable_thinking`.

        Raises:
          UserError: if the template is not valid or refuses the messages.
        """
        from jinja2 import TemplateError

        try:
            return self._compiled.render(
                messages=messages, add_generation_prompt=add_generation_prompt, tools=None,
                documents=None, **self.special_tokens, **variables)
        except (TemplateError, TypeError) as error:
            raise UserError(f"the chat template of {self.where} cannot be filled in: {error}"
                            ) from None

    @cached_property
    def _compiled(self):
        from jinja2 import TemplateError, TemplateSyntaxError, ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(ext.Extension):
            """{% generation %} marks answers for training, and changes nothing here."""

            tags = {"generation"}

            def parse(self, parser):
                next(parser.stream)
                return parser.parse_statements(("name:endgeneration",), drop_needle=True)

        def raise_exception(message):
            raise TemplateError(message)

        def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
            return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent,
                              separators=separators, sort_keys=sort_keys)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols])
        environment.filters["tojson"] = tojson
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            return environment.from_string(self.source)
        except TemplateSyntaxError as error:
            raise UserError(f"the chat template of {self.where} is not valid, line "
                            f"{error.lineno}: {error.message}") from None


def load_chat_template(workdir: str | Path) -> ChatTemplate | None:
    """Reads the chat template that the model of a workdir came with; None if it has none.

    Raises:
      UserError: if jinja2 is not installed.
    """
    folder = paths.of(workdir) / SOURCE
    config = _json(folder / "tokenizer_config.json")
    own = folder / "chat_template.jinja"
    source = own.read_text("utf-8") if own.is_file() else (
        _json(folder / "chat_template.json").get("chat_template") or config.get("chat_template"))
    if isinstance(source, list):  # several ones, by name
        source = {entry["name"]: entry["template"] for entry in source}.get("default")
    if not source:
        return None
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise UserError("chat templates need jinja2: pip install 'lm2_jax[chat]'") from None
    tokens = {key: value.get("content") if isinstance(value, dict) else value
              for key, value in config.items() if key.endswith("_token")}
    return ChatTemplate(source, {key: value for key, value in tokens.items()
                                 if isinstance(value, str)}, str(folder))


def require_chat_template(workdir: str | Path) -> ChatTemplate:
    """As `load_chat_template`, but raises a UserError if there is none."""
    template = load_chat_template(workdir)
    if template is None:
        raise UserError(f"{workdir} has no chat template, which comes with a chat model of the "
                        "transformers library (lm2 convert from-hf); give a prompt instead")
    return template


def _json(path: Path) -> dict:
    return json.loads(path.read_text("utf-8-sig")) if path.is_file() else {}
