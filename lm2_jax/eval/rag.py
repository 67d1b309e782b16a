"""Retrieval-augmented prompts: sentences of the context, chosen by BM25, in its place."""

from collections.abc import Callable

import bm25s
import numpy as np

from lm2_jax.data.babilong.mixing import Joined
from lm2_jax.data.babilong.samples import Prompt


def retrieve(prompt: Prompt, query: np.ndarray, count: int, order: str,
             opening: Callable[[np.ndarray], np.ndarray] = lambda sentence: sentence) -> Prompt:
    """The prompt with the `count` sentences of its context that score highest by BM25.

    Args:
      query: int32 tokens of the question.
      order: "document": as they stand in the context, so that what came later stays later;
        "similarity": the highest score first, as the benchmark's own baseline has them.
      opening: the ids of the first sentence to those in its place.
    """
    prefix, context, suffix = prompt.tokens.parts
    sentences = list(context.sentences())
    if len(sentences) > count:
        index = bm25s.BM25()
        index.index([_words(sentence) for sentence in sentences], show_progress=False)
        found = index.retrieve([_words(query)], k=count, show_progress=False).documents[0]
        sentences = [sentences[number]
                     for number in (np.sort(found) if order == "document" else found)]
    kept = np.concatenate([opening(sentences[0]), *sentences[1:]])
    return Prompt(prompt.task, prompt.length, Joined((prefix, kept, suffix)), prompt.question,
                  prompt.target, whole=len(prompt.tokens))


def _words(tokens: np.ndarray) -> list[str]:
    return list(map(str, tokens.tolist()))
