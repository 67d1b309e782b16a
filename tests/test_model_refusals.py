"""Input that does not fit the model is refused in one line."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from model_cases import CASES, B, variables

from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.schedule import apply_segments
from lm2_jax.model.state import init_state

SMALL = CASES["window and memory"]
TOKENS = np.zeros((B, SMALL.segment_length), np.int32)


def state_shapes(rows=B, **memory):
    config = replace(SMALL, memory=replace(SMALL.memory, **memory))
    return jax.eval_shape(lambda: init_state(config, rows))


@pytest.mark.parametrize("args,wanted", [
    ((np.zeros((B, 7), np.int32), state_shapes()),
     "tokens have shape (3, 7); a segment is [B, T] with T from 1 to segment_length = 6"),
    ((np.zeros((B, 0), np.int32), state_shapes()), "tokens have shape (3, 0)"),
    ((np.zeros(6, np.int32), state_shapes()), "tokens have shape (6,)"),
    ((TOKENS, state_shapes(num_slots=5)), "memory=(1, 3, 5, 16)"),
    ((TOKENS, state_shapes(rows=2)), "memory=(1, 2, 4, 16)"),
    ((TOKENS, state_shapes().replace(window=None)), "window=None"),
    ((TOKENS, None), "the state has shapes None"),
    ((TOKENS, state_shapes(), np.ones((B, 6), np.int32)),
     "valid_BT is int32[3, 6]; it must be bool[3, 6]"),
    ((TOKENS, state_shapes(), np.ones((B, 5), bool)),
     "valid_BT is bool[3, 5]; it must be bool[3, 6]"),
    ((TOKENS, state_shapes(), None, np.ones((B, 1), bool)),
     "reset_B is bool[3, 1]; it must be bool[3]"),
])
def test_bad_input_is_told_in_one_line(args, wanted):
    with pytest.raises(ValueError) as caught:
        jax.eval_shape(LanguageModel(SMALL).apply, variables(SMALL), *args)
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("changes,wanted", [
    ({"schedule": "diagonal"},
     "schedule is 'diagonal'; it must be one of sequential, wavefront, auto"),
    ({"valid_BL": np.ones((B, 21), bool)}, "valid_BL has shape (3, 21)"),
    ({"reset_BS": np.ones((B, 3), bool)}, "they must be (3, 22) and (3, 4)"),
])
def test_bad_input_of_a_sequence_is_told_in_one_line(changes, wanted):
    with pytest.raises(ValueError) as caught:
        apply_segments(LanguageModel(SMALL), variables(SMALL), np.zeros((B, 22), np.int32),
                       init_state(SMALL, B), **changes)
    assert wanted in str(caught.value) and "\n" not in str(caught.value)
