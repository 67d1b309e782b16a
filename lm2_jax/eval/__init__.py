"""Evaluation: streaming, greedy answers, metrics."""

from lm2_jax.eval import metrics as metrics
