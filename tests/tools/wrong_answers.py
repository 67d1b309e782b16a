"""Counts the wrong answers of an evaluation of qa1 by what its samples are like.

    python tests/tools/wrong_answers.py --config=babilong_real --workdir=runs/babilong_real \\
        --config.eval.babi=BABI/en-10k --config.eval.background=BOOKS/test --config.eval.lengths=0k

The output is a JSON object: for each length, {what: [wrong answers, samples]}, by the number of
facts, by whether the border of a segment cuts the fact that answers, and by the segments from that
fact to the question. The arguments are those of the evaluation, whose predictions are read.
"""

import argparse
import collections
import csv
import dataclasses
import json

import jax

from lm2_jax import partition
from lm2_jax.analysis import text as texts
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.cli import overrides
from lm2_jax.commands import arguments
from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.data.babilong.kinds import FACT
from lm2_jax.eval.babilong_evaluator import BabilongEvaluator
from lm2_jax.eval.gates import tokens_and_kinds
from lm2_jax.runtime import paths


def kinds_of(prompt, encoder, tokenizer, T: int) -> list[str]:
    tokens, kinds = tokens_and_kinds(prompt, encoder)
    found = texts.sentences(tokens, kinds, tokenizer)
    fact = texts.supporting(found, prompt.question, prompt.target, len(tokens))
    facts = f"{sum(sentence.kind == FACT for sentence in found)} facts"
    if fact is None:
        return [facts, "no sentence that answers"]
    first, last = fact.segments(T)
    return [facts,
            "fact cut by a border" if first != last else "fact in one segment",
            ("no segment", "1 segment", "2 segments", "3 segments or more")[
                min((len(tokens) - 1) // T - last, 3)] + " from fact to question"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_config(parser)
    parser.add_argument("--workdir", required=True)
    args, others = parser.parse_known_args()
    config = arguments.load_config(args, overrides("eval", args, others))
    stored = workdirs.stored_config(args.workdir)
    config = dataclasses.replace(config, model=stored.model)
    tokenizer = tokenizers.load(args.workdir)
    evaluator = BabilongEvaluator(config, tokenizer, partition.make_mesh({}, jax.devices()[:1]))
    counts: dict[str, dict[str, list[int]]] = {}
    for (task, length), prompts in evaluator.prompts(config.eval.num_samples).items():
        file, = (paths.of(args.workdir) / "eval").glob(f"{task}_{length}_*.csv")
        with open(file, newline="", encoding="utf-8") as rows:
            answers = list(csv.DictReader(rows))
        of_length: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
        for prompt, answer in zip(prompts, answers, strict=True):
            assert (prompt.target, prompt.question) == (answer["target"], answer["question"])
            for kind in kinds_of(prompt, evaluator.prompting.encoder, tokenizer,
                                 config.model.segment_length):
                of_length[kind][0] += answer["output"].strip() != prompt.target
                of_length[kind][1] += 1
        counts[length] = dict(sorted(of_length.items()))
    print(json.dumps(counts, indent=1))


if __name__ == "__main__":
    main()
