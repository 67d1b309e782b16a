"""No document of a row sees another one: token by token, in each kind of memory, the window and
every kernel. `test_gpu.py` has the kernel of GPUs."""

import dataclasses

import model_cases
import packing_cases
import pytest

SPLASH = "lm2"
CASES = {
    "lm2": model_cases.make_config(T=4, M=3, P=1),
    "lm2 and a long window": model_cases.make_config(T=4, M=3, P=2, window=11),
    "rmt and window": model_cases.CASES["memory tokens and window"],
    "armt and window": model_cases.CASES["associations and window"],
    "delta and window": model_cases.make_config(T=6, P=1, kind="delta", window=4),
}


# The kernel of TPUs is interpreted here: one model suffices where every test runs.
@pytest.mark.parametrize("name,kernel", [
    *((name, kernel) for name in CASES for kernel in ("xla", "chunked")),
    (SPLASH, "splash"),
    *(pytest.param(name, "splash", marks=pytest.mark.slow)
      for name in CASES if name != SPLASH)])
def test_a_changed_token_changes_its_own_document_alone(name, kernel):
    config = dataclasses.replace(CASES[name], attention_implementation=kernel)
    packing_cases.check_isolation(config, model_cases.variables(config))
