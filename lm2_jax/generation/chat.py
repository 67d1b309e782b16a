"""Conversations of several turns, of which only what is new is read."""

from lm2_jax.checkpoint.workdir import Run
from lm2_jax.errors import UserError
from lm2_jax.generation import prompts
from lm2_jax.generation.api import Generation
from lm2_jax.generation.states import ReadState
from lm2_jax.generation.text import ChatTemplate, load_chat_template, require_chat_template


class Chat:
    """A conversation in the form of a chat template.

        chat = Chat(run, template)
        answer, = lm2.generate(run, chat.ask("Hello!"), state=chat.state)
        chat.answered(answer)

    Attributes:
      state: what has been read so far; None = nothing.
    """

    def __init__(self, run: Run, template: ChatTemplate, state: ReadState | None = None,
                 system: str = ""):
        self._run, self._template = run, template
        self._messages = [{"role": "system", "content": system}] if system else []
        self._begin, self.state = state, state
        self._read = ""  # the text that `state` has read since `_begin`
        self._last: int | None = None  # the last token that it has read

    def ask(self, message: str) -> list[int]:
        """Returns the tokens that the model must read, after `state`, to answer a message.

        A template that writes earlier turns in another way later on makes `state` begin anew.
        """
        self._messages.append({"role": "user", "content": message})
        text = self._template.render(self._messages)
        if not text.startswith(self._read):
            self.state, self._read, self._last = self._begin, "", None
        new = self._run.tokenizer.encode(text[len(self._read):])
        if new[:1] == [self._last]:
            new = new[1:]  # the model itself has ended its answer as the template does
        self._read = text
        return new

    def answered(self, answer: Generation) -> None:
        """Takes the answer to the last message into the conversation."""
        self._messages.append({"role": "assistant", "content": answer.text})
        following = self._template.render(self._messages, add_generation_prompt=False)
        # Many templates strip the text of an answer.
        told = next((told for told in (answer.text, answer.text.strip())
                     if following.startswith(self._read + told)), answer.text)
        self._read += told
        self.state, self._last = answer.state, answer.tokens[-1]


class Facts:
    """A conversation with a model that was trained on facts, questions and answers.

    A message that ends with a question mark is answered; any other one is only read.

    Attributes:
      state: what has been read so far; None = nothing.
    """

    def __init__(self, run: Run, state: ReadState | None = None):
        self._run, self.state = run, state
        self._end: list[int] = []  # ends the last answer, if the model has not done so

    def ask(self, message: str) -> list[int]:
        """Returns the tokens of a message that the model must read after `state`."""
        mark = [self._run.tokenizer.answer_id] * prompts.ends_with_question(message)
        tokens = [*prompts.beginning(self._run, self.state is None), *self._end,
                  *prompts.of_text(self._run, message)[:], *mark]
        self._end = []
        return list(map(int, tokens))

    def answered(self, answer: Generation) -> None:
        """Takes the answer to the last question into the conversation."""
        self.state = answer.state
        end = self._run.tokenizer.end_id
        self._end = [] if answer.tokens[-1] == end else [end]


def begin(run: Run, state: ReadState | None = None, system: str = "") -> Chat | Facts:
    """Begins a conversation, in the form of the chat template if the model has one.

    Raises:
      UserError: if the model has no chat template and was not trained on questions, or if there is
        a system message and no template for it.
    """
    template = load_chat_template(run.workdir) if run.workdir else None
    if template is None and prompts.answers_questions(run):
        if system:
            raise UserError("a model without a chat template takes no system message")
        return Facts(run, state)
    if template is None:
        template = require_chat_template(run.workdir or "a model in memory")
    return Chat(run, template, state, system)
