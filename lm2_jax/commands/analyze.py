"""`lm2 analyze`: a page of pictures of what a trained memory does."""

import argparse
import contextlib
import dataclasses
from pathlib import Path

import jax
import numpy as np

from lm2_jax.analysis import distance_panels, page, panels, planted
from lm2_jax.analysis import text as texts
from lm2_jax.commands import arguments, evaluate
from lm2_jax.config import Config
from lm2_jax.data.babilong.prompting import Instruct
from lm2_jax.data.babilong.samples import Prompt
from lm2_jax.errors import UserError
from lm2_jax.eval.babilong_evaluator import BabilongEvaluator
from lm2_jax.eval.gates import tokens_and_kinds
from lm2_jax.generation.engine import Engine
from lm2_jax.model.lm import LanguageModel
from lm2_jax.runtime import compilation_cache, locks, paths
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.progress import Bar
from lm2_jax.types import Params

SEARCHED = 20  # samples among which a question is looked for


def show(config: Config, workdir: str | Path, step: int | None = None, sample: int | None = None,
         block: int | None = None, head: int | None = None, num_texts: int = 300,
         most_segments: int = 64, out: str | Path | None = None, console: Console | None = None
         ) -> Path:
    """Writes index.html, analysis.json and a PNG for each panel; returns the path of the page.

    Args:
      sample: number of the question, among the samples of the shortest length that has segments
        between a fact and the question; None takes the first whose answer stands in an earlier
        segment.
      block, head: of the read attention; None takes the head whose map changes most.
      num_texts: texts of which the probe is measured, and of at most 32 the gradient.
      most_segments: between the fact and the question of these texts.
      out: folder; `workdir/eval/analysis` if None.

    Raises:
      UserError: the model has no memory, `eval.lengths` is empty, or there is no such sample, block
        or head.
    """
    console = console or Console()
    for name, value, least in (("--samples", num_texts, 10), ("--segments", most_segments, 1),
                               ("--sample", sample or 0, 0)):
        if value < least:
            raise UserError(f"{name} is {value}; it must be at least {least}")
    folder = paths.of(workdir) / "eval" / "analysis" if out is None else paths.of(out)
    locks.require_writable(folder, "--out")
    count = max(SEARCHED, (sample or 0) + 1)
    if config.eval.indices:
        count = (sample or 0) + 1
    config = dataclasses.replace(config, eval=dataclasses.replace(
        config.eval, num_samples=count, during_training=0))
    evaluator, params, step = evaluate.open_workdir(config, workdir, step)
    if not evaluator.config.model.memory.num_layers:
        raise UserError(f"{workdir} is a Llama without a memory (model.memory.num_layers is 0), so "
                        "there is no memory to analyse")
    m = panels.Model(LanguageModel(evaluator.config.model), params, evaluator.tokens.pad_id,
                     folder)
    cell, number, text = _question(evaluator, m.segment_length, sample, count)
    long_text = _long_text(evaluator, count, panels.LONGEST_TEXT * m.segment_length)
    segments = [2**i for i in range(most_segments.bit_length())]
    has_stories, drawn = bool(evaluator.corpus.sources), None
    if has_stories:
        drawn = planted.plant(evaluator.corpus, evaluator.prompting, m.segment_length, num_texts,
                              segments[-1] - 1, evaluator.config.eval.seed)
    readings = panels.num_readings(m, text, long_text)
    if drawn:
        readings += distance_panels.num_readings(m, drawn, segments)
    bar = Bar("analyze", readings, console=console, unit="segments")
    done, doing = 0, ""

    def progress(count: int) -> None:
        nonlocal done
        done += count
        bar.update(done, doing)

    m = dataclasses.replace(m, progress=progress)
    with contextlib.closing(bar):
        doing = "one question"
        read, sentences, movement = panels.of_text(m, text, block, head)
        doing = "a long text"
        gates = panels.of_long_text(m, long_text)
        doing = "gradient and probe"
        distance = distance_panels.of_distance(m, drawn, segments) if drawn else [
            page.Panel(name, title, "", reason="the samples come from a file (eval.samples), so "
                       "no texts can be drawn that differ in length alone")
            for name, title in (("gradient", "The gradient to a fact k segments back"),
                                ("probe", "What a linear probe finds in the memory"))]
    found = [read, sentences, gates, *distance, movement]
    about = _about(evaluator.config, workdir, step, params, cell[number], number)
    about["model's answer"] = _answer(evaluator, params, cell[number])
    written = page.write(folder, f"Inside the memory of {paths.of(workdir).resolve().name}", about,
                         found)
    for panel in found:
        console.print(f"left out: {panel.name}: {panel.reason}" if panel.picture is None
                      else str(panel.picture))
    for path in reversed(written):
        console.print(str(path))
    return written[0]


def _question(evaluator: BabilongEvaluator, segment_length: int, sample: int | None, count: int
              ) -> tuple[list[Prompt], int, panels.Text]:
    """The samples of a length, the number of the chosen one, and its text."""
    cells = sorted(evaluator.prompts(count).values(), key=lambda cell: len(cell[0].tokens))
    apart = [cell for cell in cells if len(cell[0].tokens) > 2 * segment_length] or cells
    tried = range(min(count, len(apart[0]))) if sample is None else [sample]
    if sample is not None and sample >= len(apart[0]):
        raise UserError(f"--sample is {sample}; there are {len(apart[0])} samples of "
                        f"{apart[0][0].task} {apart[0][0].length}, from 0")
    for number in tried:
        text = _text(evaluator, apart[0][number])
        if text.is_apart(segment_length):
            return apart[0], number, text
    return apart[0], tried[0], _text(evaluator, apart[0][tried[0]])


def _long_text(evaluator: BabilongEvaluator, count: int, most_tokens: int) -> panels.Text:
    """The longest sample that has at most so many tokens, or the beginning of the shortest."""
    prompts = sorted((cell[0] for cell in evaluator.prompts(count).values()),
                     key=lambda prompt: len(prompt.tokens))
    whole = [prompt for prompt in prompts if len(prompt.tokens) <= most_tokens]
    return _text(evaluator, whole[-1] if whole else prompts[0], most_tokens)


def _text(evaluator: BabilongEvaluator, prompt: Prompt, most_tokens: int | None = None
          ) -> panels.Text:
    """A prompt as a text, or its first tokens, with the sentence that answers its question.

    In a few-shot prompt this is a sentence of the examples, if one holds the answer.
    """
    tokenizer, prompting = evaluator.tokens, evaluator.prompting
    if most_tokens is not None and len(prompt.tokens) > most_tokens:
        parts = (prompt.tokens[:most_tokens], np.zeros(0, np.int32))
        prompt = dataclasses.replace(prompt, tokens=dataclasses.replace(prompt.tokens, parts=parts))
    tokens, kinds = tokens_and_kinds(prompt, prompting.encoder)
    found = texts.sentences(tokens, kinds, tokenizer)
    support = None
    if isinstance(prompting, Instruct) and prompting.prompt(prompt.task).examples:
        support = texts.supporting(found, prompt.question, prompt.target,
                                   len(prompt.tokens.parts[0]), must_answer=True)
    support = support or texts.supporting(found, prompt.question, prompt.target, len(tokens))
    subtitle = f"{prompt.task}, {len(tokens):,} tokens: {prompt.question} {prompt.target}"
    return panels.Text(tokens, kinds, found, texts.words(tokens, tokenizer), support, subtitle)


def _answer(evaluator: BabilongEvaluator, params: Params, prompt: Prompt) -> str:
    engine = Engine(LanguageModel(evaluator.config.model), params,
                    pad_id=evaluator.tokens.pad_id, stop_ids=evaluator.tokens.stop_ids)
    ids, = engine.answer([prompt.tokens], evaluator.config.eval.max_new_tokens)
    return evaluator.tokens.decode(ids).strip()


def _about(config: Config, workdir: str | Path, step: int, params: Params, prompt: Prompt,
           number: int) -> dict[str, str]:
    c, m = config.model, config.model.memory
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    size = {"lm2": f", write={m.write}: {m.num_slots} slots",
            "delta": f": {m.num_heads} heads"}.get(m.kind, f": {m.num_slots} memory tokens")
    return {
        "run": f"{paths.of(workdir).resolve().name}, step {step:,}",
        "model": f"{num_parameters:,} parameters, {c.num_layers} blocks, segments of "
                 f"{c.segment_length} tokens",
        "memory": f"{m.kind}{size}, in {m.num_layers} blocks",
        "question": f"sample {number} of {prompt.task} {prompt.length}: {prompt.question}",
        "right answer": prompt.target,
    }


EPILOG = arguments.CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    arguments.add_checkpoint(parser)
    parser.add_argument("--out", metavar="FOLDER",
                        help="folder of the page and its pictures (WORKDIR/eval/analysis)")
    parser.add_argument("--sample", type=int, metavar="N",
                        help="question to look at, from 0 (the first whose answer stands in an "
                        "earlier segment)")
    parser.add_argument("--block", type=int, help="block of the heat maps, from 0, and")
    parser.add_argument("--head", type=int,
                        help="its head (those whose map changes most by the fact)")
    parser.add_argument("--samples", type=int, default=300, metavar="N",
                        help="texts of which the probe is measured, and of at most 32 the gradient "
                        "(%(default)s)")
    parser.add_argument("--segments", type=int, default=64, metavar="K",
                        help="most segments from fact to question in these texts (%(default)s)")


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    compilation_cache.enable()
    show(arguments.load_config(args, overrides), args.workdir, args.step, args.sample,
         args.block, args.head, args.samples, args.segments, args.out)
    return 0
