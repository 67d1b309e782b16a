"""`lm2 generate`: text after a prompt, answers to questions, conversations, files of prompts."""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from lm2_jax.checkpoint.workdir import Run
from lm2_jax.commands import arguments, generate_file
from lm2_jax.errors import UserError
from lm2_jax.generation import chat as chats
from lm2_jax.generation import prompts
from lm2_jax.generation.api import Generation, generate, read
from lm2_jax.generation.states import ReadState
from lm2_jax.runtime import compilation_cache
from lm2_jax.runtime.console import SafeStream
from lm2_jax.runtime.progress import Bar

EPILOG = """The prompt is PROMPT, --file or the standard input. The text goes to the standard
output as it is generated, notes go to the standard error. A model that was trained on BABILong
answers a prompt that ends with a question mark, or --question, as in training. --chat uses the
model's chat template (pip install 'lm2_jax[chat]'); a model of BABILong that has none reads each
line as a fact, and answers a line that ends with a question mark."""
LONG_PROMPT = 4096  # tokens; reading a longer one shows a progress bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what the text goes on from")
    arguments.add_checkpoint(parser)
    parser.add_argument("--file", metavar="FILE", help="has the prompt (UTF-8; .gz and .zst too)")
    parser.add_argument("--question", default="", metavar="TEXT", help="asked after the prompt")
    arguments.add_state(parser, "what was read before the prompt")
    parser.add_argument("--chat", action="store_true",
                        help="a conversation, one turn a line; only what is new is read")
    parser.add_argument("--system", default="", metavar="TEXT", help="--chat: the system message")
    parser.add_argument("--jsonl", metavar="IN",
                        help='JSON lines with "prompt" or "messages", and perhaps "question" and '
                             '"document"; other keys are kept')
    parser.add_argument("--out", metavar="OUT",
                        help='--jsonl: the same lines with "text" and "reason" (standard output)')
    parser.add_argument("--batch-size", type=int, default=8, metavar="N",
                        help="--jsonl: prompts at the same time (%(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N",
                        help="may be more than a segment (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0,
                        help="0 = always the most likely token (%(default)s)")
    parser.add_argument("--greedy", dest="temperature", action="store_const", const=0.0,
                        help="--temperature=0, the default")
    parser.add_argument("--top-k", type=int, default=0, help="of the k most likely tokens (all)")
    parser.add_argument("--top-p", type=float, default=1.0,
                        help="of the most likely tokens with probability p together (all)")
    parser.add_argument("--min-p", type=float, default=0.0,
                        help="of tokens at least p times as likely as the most likely one (all)")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R",
                        help="above 1 makes tokens that have occurred less likely (%(default)s)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT",
                        help="ends before this text; may be given several times")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (%(default)s)")


def run(args: argparse.Namespace, _: dict[str, str]) -> int:
    _check(args)
    prompt = "" if args.chat or args.jsonl else _prompt(args)
    compilation_cache.enable()
    trained = arguments.load_run(args)
    options = {name: getattr(args, name) for name in (
        "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop",
        "seed")}
    if args.jsonl:
        generate_file.run(trained, args, options)
    elif args.chat:
        _chat(trained, arguments.load_state(args, trained), args.system, options)
    else:
        state = arguments.load_state(args, trained)
        tokens = prompts.of_prompt(trained, prompt, args.question, first=state is None)
        _answer(trained, tokens, state, options)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuses arguments that do not go together."""
    ways = {"PROMPT": args.prompt is not None, "--file": args.file, "--chat": args.chat,
            "--jsonl": args.jsonl}
    given = [name for name, value in ways.items() if value]
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]}: give one of them")
    for name, belongs in (("question", not (args.chat or args.jsonl)), ("system", args.chat),
                          ("out", args.jsonl)):
        if getattr(args, name) and not belongs:
            raise UserError(f"--{name} does not go with {given[0] if given else 'a prompt'}")
    if args.batch_size < 1:
        raise UserError(f"--batch-size is {args.batch_size}; it must be at least 1")


def _prompt(args: argparse.Namespace) -> str:
    """The prompt, without the line break that ends a file."""
    if args.file:
        return arguments.read_text(args.file).removesuffix("\n")
    if args.prompt is not None or args.question:
        return args.prompt or ""
    if sys.stdin.isatty():
        raise UserError("there is no prompt; give it as an argument, with --file or on the "
                        "standard input, or begin a conversation with --chat")
    return sys.stdin.read().removesuffix("\n")


def _answer(trained: Run, tokens: Any, state: ReadState | None, options: dict[str, Any]
            ) -> Generation:
    """Prints the text as it comes, and a line about it on the standard error."""
    began, first, done = time.perf_counter(), 0.0, 0
    out, notes, bar = SafeStream("stdout"), arguments.notes(), None
    if len(tokens) > LONG_PROMPT:
        bar = Bar("reading", len(tokens), console=notes, unit="tokens")

    def progress(count: int) -> None:
        nonlocal done
        done += count
        if bar:
            bar.update(done, f"{done / (time.perf_counter() - began):,.0f} tokens/s")
            if done == len(tokens):
                bar.close()

    def show(_: int, text: str) -> None:
        nonlocal first
        first = first or time.perf_counter() - began
        out.write(text)
        out.flush()

    answer, = generate(trained, [tokens], state=state, on_text=show, progress=progress, **options)
    if not answer.text.endswith("\n"):
        show(0, "\n")
    more = len(answer.tokens) - 1
    rate = more / (time.perf_counter() - began - first)
    notes.print(f"({len(tokens):,} tokens read, {len(answer.tokens):,} generated; the first text "
                f"after {first:.2f} s" + f", then {rate:,.1f} tokens a second" * (more > 9)
                + f"; ended by {answer.reason})")
    return answer


def _chat(trained: Run, state: ReadState | None, system: str, options: dict[str, Any]) -> None:
    conversation = chats.begin(trained, state, system)
    for line in _turns():
        tokens = conversation.ask(line)
        if isinstance(conversation, chats.Facts) and not prompts.ends_with_question(line):
            conversation.state = read(trained, tokens, conversation.state)
            continue
        conversation.answered(_answer(trained, tokens, conversation.state, options))


def _turns() -> Iterator[str]:
    """The lines that are typed, or those of a pipe, without empty ones."""
    typed = sys.stdin.isatty()
    if typed:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (which lets lines be edited)
    while True:
        try:
            line = input("> " if typed else "").strip()
        except EOFError:
            print(end="\n" * typed)
            return
        if line:
            yield line
