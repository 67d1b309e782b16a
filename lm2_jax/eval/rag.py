"""Retrieval: the model is given not the context but its sentences that are like the question."""

import bm25s
import numpy as np

from lm2_jax.data.babilong.mixing import Joined
from lm2_jax.data.babilong.samples import Prompt


def retrieve(prompt: Prompt, query: np.ndarray, count: int, order: str) -> Prompt:
    """The prompt with the `count` sentences of its context that score highest by BM25.

    Args:
      query: int32 tokens of the question.
      order: "document": as they stand in the context, so that what came later stays later;
        "similarity": the highest score first, as the benchmark's own baseline has them.
    """
    before, context, behind = prompt.tokens.parts
    sentences = list(context.sentences())
    if len(sentences) <= count:
        return prompt
    index = bm25s.BM25()
    index.index([_words(sentence) for sentence in sentences], show_progress=False)
    found = index.retrieve([_words(query)], k=count, show_progress=False).documents[0]
    chosen = np.sort(found) if order == "document" else found
    kept = np.concatenate([sentences[number] for number in chosen])
    return Prompt(prompt.task, prompt.length, Joined((before, kept, behind)), prompt.question,
                  prompt.target, whole=len(prompt.tokens))


def _words(tokens: np.ndarray) -> list[str]:
    return list(map(str, tokens.tolist()))
