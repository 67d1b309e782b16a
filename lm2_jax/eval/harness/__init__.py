"""Evaluation by lm-evaluation-harness (the package lm_eval, extra `harness`).

`python -m lm2_jax.eval.harness` is the harness's own command line, with the model `lm2_jax`:

    python -m lm2_jax.eval.harness --model lm2_jax --model_args workdir=W --tasks arc_easy
"""
