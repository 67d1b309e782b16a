"""Retrieval-augmented prompts: sentences of the context, chosen by BM25, in its place."""

import logging
import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np

from lm2_jax.data.babilong.mixing import Joined
from lm2_jax.data.babilong.samples import Prompt


def retrieve(prompt: Prompt, query: np.ndarray, count: int, order: str,
             opening: Callable[[np.ndarray], np.ndarray] = lambda sentence: sentence) -> Prompt:
    """The prompt with the `count` sentences of its context that score highest by BM25.

    Of sentences with equal scores the first are taken.

    Args:
      query: int32 tokens of the question.
      order: "document": as they stand in the context, so that what came later stays later;
        "similarity": the highest score first, as in the benchmark's own baseline.
      opening: the ids of the first sentence to those in its place.
    """
    prefix, context, suffix = prompt.tokens.parts
    if isinstance(context, np.ndarray):
        raise TypeError("only a context that is a Mixture or a Text has sentences")
    sentences = list(context.sentences())
    if len(sentences) > count:
        index = _import_bm25s().BM25()
        index.index([_words(sentence) for sentence in sentences], show_progress=False)
        found = np.argsort(-index.get_scores(_words(query)), kind="stable")[:count]
        sentences = [sentences[number]
                     for number in (np.sort(found) if order == "document" else found)]
    kept = np.concatenate([opening(sentences[0]), *sentences[1:]])
    return Prompt(prompt.task, prompt.length, Joined((prefix, kept, suffix)), prompt.question,
                  prompt.target, whole=len(prompt.tokens))


def _words(tokens: np.ndarray) -> list[str]:
    return list(map(str, tokens.tolist()))


def _import_bm25s() -> ModuleType:
    """bm25s, told that there is no JAX.

    It runs a JAX computation when it is imported, which initializes the backend: after that
    `jax.distributed.initialize` is refused, and without a usable device the import fails.
    """
    if "bm25s" not in sys.modules:
        lax = sys.modules.get("jax.lax")
        # With None, "import jax.lax" raises ImportError; typeshed does not know this value.
        sys.modules["jax.lax"] = None  # type: ignore[assignment]
        try:
            import bm25s  # noqa: F401
        finally:
            sys.modules.pop("jax.lax")
            if lax is not None:
                sys.modules["jax.lax"] = lax
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets DEBUG, a line an index
    return sys.modules["bm25s"]
