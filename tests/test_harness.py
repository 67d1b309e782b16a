"""The model class of lm-evaluation-harness against direct computations."""

import numpy as np
import pytest
import scipy.special
from harness_cases import MESH, MODEL, TEXT, T, instances, run, tokens

import lm2_jax as lm2
from lm2_jax.errors import UserError
from lm2_jax.eval.documents import Document, DocumentReader

pytest.importorskip("lm_eval")
from lm2_jax.eval.harness.model import LM2  # noqa: E402

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LONGEST = 48


@pytest.fixture(scope="module")
def model():
    return LM2(run(), batch_size=8)


def logits(ids):
    """[L, V] of a text that is read in one go; padding lets one compilation serve all texts."""
    padded = np.zeros((1, LONGEST), np.int32)
    padded[0, :len(ids)] = ids
    out = lm2.apply_segments(run().model, run().variables, padded, lm2.init_state(MODEL, 1),
                             np.arange(LONGEST)[None] < len(ids))
    return np.asarray(out.logits[0, :len(ids)], np.float64)


def log_probs(ids, count):
    """Of each of the last `count` tokens, and whether they are the most likely ones."""
    found = scipy.special.log_softmax(logits(ids)[-count - 1:-1], axis=-1)
    return (found[np.arange(count), ids[-count:]],
            bool((found.argmax(-1) == ids[-count:]).all()))


def test_log_likelihoods_are_those_of_the_whole_text(model):
    pairs = [(TEXT, " Where is Mary?"), (TEXT + " ", "Where"), (TEXT[:8], TEXT[8:]), ("", "Mary")]
    got = model.loglikelihood(instances(*pairs))
    for (context, continuation), (log_prob, greedy) in zip(pairs, got, strict=True):
        whole = tokens().encode(context + continuation)
        count = len(whole) - len(tokens().encode(context.rstrip()))
        whole = whole if context else [model.prefix_token_id, *whole]
        wanted, most_likely = log_probs(whole, count)
        assert log_prob == pytest.approx(wanted.sum(), abs=1e-4) and greedy == most_likely
    assert len(tokens().encode(TEXT)) == 3 * T


def test_a_whole_text_has_the_loss_of_perplexity(model):
    ids = [model.prefix_token_id, *tokens().encode(TEXT)]
    reader = DocumentReader(run().model, run().variables, MESH, pad_id=0)
    loss, = reader.losses([Document(np.array(ids, np.int32), 0)])
    got, empty = model.loglikelihood_rolling(instances((TEXT,), ("",)))
    assert got == pytest.approx(-loss.sum(), rel=1e-5) and empty == 0


def test_texts_are_the_most_likely_ones_up_to_a_stop_string(model):
    prompts, new = [TEXT, TEXT[:30], "Mary"], T + 3
    wanted = []
    for prompt in prompts:
        ids = tokens().encode(prompt)
        for _ in range(new):
            ids.append(int(logits(ids)[-1].argmax()))
        assert not tokens().stop_ids & set(ids)
        wanted.append(tokens().decode(ids[-new:]))
    options = {"until": [], "max_gen_toks": new}
    assert model.generate_until(instances(*((p, options) for p in prompts))) == wanted
    stop = wanted[0][3:5]
    stopped = {"until": stop, "max_gen_toks": new, "do_sample": False, "temperature": 0.0}
    assert model.generate_until(instances((prompts[0], stopped), (prompts[1], options))) == [
        wanted[0][:wanted[0].index(stop)], wanted[1]]


def test_options_of_texts(model):
    sampling = model._options({"do_sample": True, "top_p": 0.9, "until": ["a", ""]}).sampling
    assert (sampling.temperature, sampling.top_p) == (1.0, 0.9)
    assert model._options({"do_sample": False, "top_p": 0.9}).sampling.top_p == 1.0
    assert model._options({"until": ["a", ""]})[:2] == (("a",), 256)
    with pytest.raises(UserError, match="generation_kwargs has num_beams"):
        model._options({"num_beams": 2})


@pytest.mark.parametrize("arguments,message", [
    (dict(batch_size="many"), "batch_size is 'many'"), (dict(memory="kept"), "memory is 'kept'")])
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        LM2(run(), **arguments)
