"""The panels of what is left of a fact k segments later: its gradient, and a linear probe."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from lm2_jax.analysis import distance, plots, probe, reading
from lm2_jax.analysis.page import Panel
from lm2_jax.analysis.panels import BLOCKS_SHOWN, Model
from lm2_jax.analysis.planted import Planted

GRADIENT_TEXTS = 32
BATCH = 32
FEATURES = 16_384  # of a block's state that the probe gets


def of_distance(m: Model, texts: Planted, segments: Sequence[int]) -> list[Panel]:
    """The gradient to a fact, and the probe, after each number of segments."""
    T, subtitle = m.segment_length, f"texts that end with: {texts.question}"
    gradient = Panel(
        "gradient", "The gradient to a fact k segments back",
        "The curve of the fact should stay level and above that of prose: where it falls by the "
        "same factor with every segment, the fact is forgotten and training does not reach it (it "
        "also rises where the answer becomes less certain).")
    if len(texts.question_Q) > T:
        gradient = dataclasses.replace(gradient, reason="the question is longer than a segment")
    else:
        some = texts.rows(0, GRADIENT_TEXTS)
        found = distance.gradients(m.model, m.params, some, segments, m.pad_id, m.progress)
        picture = plots.gradients(found, m.folder / "gradient.png", T,
                                  f"{len(some.answer_B)} {subtitle}\nbands: 10 to 90 % of texts")
        gradient = dataclasses.replace(
            gradient, picture=picture, numbers={"segments": segments, "texts": len(some.answer_B),
                                                "fact": found.fact, "prose": found.prose})
    return [gradient, _probe_panel(m, texts, segments, f"{len(texts.answer_B)} {subtitle}")]


def _probe_panel(m: Model, texts: Planted, segments: Sequence[int], subtitle: str) -> Panel:
    T, asks = m.segment_length, len(texts.question_Q) <= m.segment_length
    features: list[list[np.ndarray]] = [[] for _ in segments]
    right: list[list[np.ndarray]] = [[] for _ in segments]
    first = 0
    for states in distance.states(m.model, m.params, texts, segments, BATCH, m.progress):
        batch = texts.rows(first, first + BATCH)
        for i, state in enumerate(states):
            features[i].append(_picked(reading.flat(state)))
            if asks:
                said_B = distance.answers(m.model, m.params, state,
                                          *distance.ask(batch, T, m.pad_id))
                right[i].append(np.asarray(said_B) == batch.answer_B)
        first += BATCH
    names, labels = np.unique(texts.answers, return_inverse=True)
    curves: dict[str, list[float]] = {}
    if asks:
        curves["the model's own answer (first token)"] = [
            float(np.concatenate(parts).mean()) for parts in right]
    P = features[0][0].shape[0]
    blocks = [("linear probe of the whole memory", slice(None))]
    if 1 < P <= BLOCKS_SHOWN:
        blocks += [(f"linear probe of block {block}", slice(block, block + 1))
                   for block in range(P)]
    for label, wanted in blocks:
        curves[label] = []
        for parts in features:
            values = np.concatenate(parts, axis=1)[wanted].swapaxes(0, 1)
            said = probe.predictions(values.reshape(len(labels), -1), labels)
            curves[label].append(float(np.mean(said == labels)))
    constant = probe.constant(labels)
    return Panel(
        "probe", "What a linear probe finds in the memory",
        "A probe above the model's own answer shows a fact that is still in the memory but is not "
        "read; a probe that falls to the constant answer shows one that is gone, at least for a "
        "linear reader.",
        plots.probe(curves, constant, segments, m.folder / "probe.png", T,
                    f"{subtitle}\npredicted by ridge regression, five-fold cross-validation"),
        {"segments": segments, "texts": len(labels), "answers": names, "accuracy": curves,
         "constant_answer": constant})


def _picked(values_PBF: np.ndarray) -> np.ndarray:
    """At most FEATURES of each block, the same of every state."""
    F = values_PBF.shape[2]
    return values_PBF if F <= FEATURES else values_PBF[:, :, _choice(F)]


@functools.cache
def _choice(num_features: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.sort(rng.choice(num_features, FEATURES, replace=False))


def num_readings(m: Model, texts: Planted, segments: Sequence[int]) -> int:
    """How often `progress` is told of a segment."""
    before = texts.fact_segments - 1
    count = (before + segments[-1]) * -(-len(texts.answer_B) // BATCH)
    if len(texts.question_Q) <= m.segment_length:
        count += before + segments[-1] + sum(before + k for k in segments)
    return count
