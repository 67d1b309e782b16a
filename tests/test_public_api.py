"""The public names of the package, used as a notebook does."""

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

import lm2_jax as lm2

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TINY = runs.ROOT / "configs" / "tiny.py"


@pytest.fixture(scope="module")
def data():
    return lm2.batches(lm2.load_config(TINY, {"train.batch_size": 8, "train.num_steps": 6,
                                              "model.num_layers": 1,
                                              "model.memory.num_layers": 1,
                                              "data.curriculum": ((0, 2),)}))


def test_every_public_name_is_there():
    assert all(getattr(lm2, name) is not None for name in lm2.__all__)
    assert set(lm2.__all__) <= set(dir(lm2))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lm2.nothing  # noqa: B018


@pytest.mark.parametrize("code", ["import lm2_jax", "import lm2_jax.cli",
                                  "from lm2_jax.cli import main; main(['help'])"])
def test_importing_the_package_loads_no_jax(code):
    check = f"import sys; {code}; assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=runs.ROOT, stdout=subprocess.PIPE)


def test_the_batches_of_a_config(data):
    assert len(data) == 6 and data.config.model.vocab_size == data.tokenizer.vocab_size
    first, again = data[0], next(iter(data))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again),
                                                    strict=True))
    T = data.config.model.segment_length
    assert first.tokens_BL.shape == (8, 2 * T) and first.reset_BS.shape == (8, 2)
    assert first.answer_BL.any() and (first.loss_weight_BL[first.answer_BL] == 1).all()


def test_training_without_a_workdir(data):
    state = lm2.create_train_state(data.config)
    train_step = lm2.make_train_step(data.config)
    before = lm2.loss(data.config, jax.device_get(state.params), data[0])
    losses = []
    for batch in data:
        state, metrics = train_step(state, batch)
        losses.append(float(metrics["loss"]))
    assert int(state.step) == 6
    np.testing.assert_allclose(losses[0], before, rtol=1e-5)
    assert losses[-1] < losses[0]


def test_the_loss_is_differentiable(data):
    variables = lm2.init(data.config.model, jax.random.key(0))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(variables))
    value, grads = jax.jit(jax.value_and_grad(
        lambda params: lm2.loss(data.config, params, data[0])))(variables)
    assert np.isfinite(value)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))


def test_a_config_without_its_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"model.vocab_size is 0; take the config of lm2.batches"):
        lm2.create_train_state(lm2.load_config(TINY))


@pytest.mark.slow
def test_training_evaluating_and_loading_a_workdir_in_a_thread(tmp_path, monkeypatch):
    """As a notebook or a web server does; signals are heard in the main thread alone."""
    config = lm2.load_config(TINY, {
        "train.num_steps": 2, "train.batch_size": 8, "data.curriculum": ((0, 1),),
        "eval.lengths": ("96",), "eval.num_samples": 8, "eval.batch_size": 8,
        "eval.max_new_tokens": 2, "train.eval_every_steps": 0})
    found = {}

    def work():
        found["trained"] = lm2.train(config, tmp_path / "run")
        found["evaluated"] = lm2.evaluate(config, tmp_path / "run")
        found["run"] = lm2.load(tmp_path / "run")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found["trained"] == found["evaluated"] and found["trained"][0].n == 8
    run = found["run"]
    assert run.step == 2 and run.config.model.vocab_size == run.tokenizer.vocab_size
    tokens = jnp.array([run.tokenizer.encode("Where is John?")])
    out = lm2.apply_segments(run.model, run.variables, tokens,
                             lm2.init_state(run.config.model, 1))
    assert out.logits.shape == (1, tokens.shape[1], run.config.model.vocab_size)
