"""Log-likelihoods of continuations against logits of whole texts, read in one go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import CASES, V, variables

import lm2_jax as lm2
from lm2_jax import partition
from lm2_jax.eval import scoring
from lm2_jax.eval.scoring import Request, Scorer

pytestmark = pytest.mark.usefixtures("compiled_quickly")

NAMES = ("window and memory", "memory tokens and window")
MESH = partition.make_mesh({"data": 1}, jax.devices()[:1])
LONGEST = 30


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Narrow segments stay narrow, and logits of two tokens are there at once."""
    monkeypatch.setattr(scoring, "NARROWEST", 4)
    monkeypatch.setattr(scoring, "LOGITS", 2 * 8 * V + 1)


def make_requests(T):
    """Contexts and continuations on both sides of borders of segments; some contexts are shared,
    and some continuations differ in the last token alone."""
    rng = np.random.default_rng(3)
    found = []
    for size in (1, T, 3 * T + 1):
        context = rng.integers(0, V, size, np.int32)
        for more in (1, T + 2):
            first = rng.integers(0, V, more, np.int32)
            other = np.append(first[:-1], (first[-1] + 1) % V).astype(np.int32)
            found += [Request(context, first), Request(context, other)]
    found += [Request(found[0].context, np.array([token], np.int32)) for token in range(V)]
    order = rng.permutation(len(found))
    return [found[i] for i in order]


def directly(name, requests, wipe):
    """(log-likelihood, greedy) of each request, from the logits of all of its tokens."""
    config = CASES[name]
    texts = [np.concatenate(request) for request in requests]
    tokens, valid = np.zeros((2, len(texts), LONGEST), np.int32)
    for row, text in enumerate(texts):
        tokens[row, :len(text)], valid[row, :len(text)] = text, 1
    out = lm2.apply_segments(
        lm2.LanguageModel(config), variables(config), tokens, lm2.init_state(config, len(texts)),
        valid.astype(bool),
        np.full((len(texts), -(-LONGEST // config.segment_length)), wipe))
    log_probs = np.asarray(jax.nn.log_softmax(out.logits), np.float64)
    found = []
    for row, (context, continuation) in enumerate(requests):
        places = len(context) - 1 + np.arange(len(continuation))
        found.append((log_probs[row, places, continuation].sum(),
                      bool((log_probs[row, places].argmax(-1) == continuation).all())))
    return found


def scores(name, requests, batch_size=8, **options):
    scorer = Scorer(lm2.LanguageModel(CASES[name]), jax.tree.map(jnp.asarray,
                                                                variables(CASES[name])),
                    MESH, pad_id=0)
    found = dict(scorer.scores(requests, batch_size, **options))
    return [found[i] for i in range(len(requests))]


@pytest.mark.parametrize("wipe", [False, True], ids=["carried", "wiped"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_whole_text(name, wipe):
    requests = make_requests(CASES[name].segment_length)
    wanted = directly(name, requests, wipe)
    got = scores(name, requests, wipe=wipe)
    np.testing.assert_allclose([score.log_likelihood for score in got],
                               [log_prob for log_prob, _ in wanted], atol=2e-5)
    assert [score.greedy for score in got] == [greedy for _, greedy in wanted]
    assert len({score.greedy for score in got}) == 2


def test_what_is_carried_counts():
    name = NAMES[0]
    requests = make_requests(CASES[name].segment_length)
    carried, wiped = (scores(name, requests, wipe=wipe) for wipe in (False, True))
    assert carried != wiped


def test_each_context_is_read_once_and_last_tokens_share_a_row(monkeypatch):
    read, rows = [], []
    original = scoring.readings.read
    monkeypatch.setattr(scoring.readings, "read", lambda *args, **options: (
        read.append(len(args[2])), original(*args, **options))[1])
    monkeypatch.setattr(Scorer, "_read", lambda self, reading, batch, wipe: (
        rows.append(len(batch)), [(np.zeros(len(row.tokens) + len(row.lasts)),) * 2
                                  for row in batch])[1])
    context = np.arange(5, dtype=np.int32)
    choices = [Request(context, np.array([i], np.int32)) for i in range(4)]
    longer = [Request(context, np.array([7, i], np.int32)) for i in range(3)]
    scores(NAMES[0], [*choices, *longer, Request(context[:2], np.array([1, 2, 3], np.int32))])
    assert read == [2] and rows == [3]


def test_an_empty_continuation_has_a_log_likelihood_of_zero():
    nothing = np.array([], np.int32)
    assert scores(NAMES[0], [Request(np.array([3], np.int32), nothing)]) == [(0.0, True)]
