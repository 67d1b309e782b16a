"""A run that begins with a Llama of the transformers library: at first it computes the same."""

import json
import shutil

import hf_folders
import jax
import numpy as np
import pytest
import shard_cases
import test_convert
from test_convert import config_of
from training import one_device

import lm2_jax as lm2
from lm2_jax import partition
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.cli import main
from lm2_jax.config import MemoryConfig, ModelConfig, RopeScaling
from lm2_jax.convert import card as card_of_model
from lm2_jax.convert import exporting, importing
from lm2_jax.convert.beginning import Beginning
from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.errors import UserError

SEGMENT, LENGTH = 8, 24
WORDS = (" Mary John Daniel Sandra moved went travelled journeyed back to the bathroom hallway"
         " office kitchen garden bedroom. Where is Mary?")


def model_beside(source, **memory):
    """The Llama's shape, with a memory and segments of its own."""
    shape = {key.removeprefix("model."): value
             for key, value in Beginning(init_from_hf=str(source.folder)).shape(
                 source.folder / "none").items()}
    if shape["rope_scaling"]:
        shape["rope_scaling"] = RopeScaling(**shape["rope_scaling"])
    return ModelConfig(**shape, segment_length=SEGMENT, attention_window=4,
                       memory=MemoryConfig(num_slots=3, num_heads=2, key_dim=4, **memory))


def logits(model, variables):
    tokens = np.random.default_rng(0).integers(0, 40, (2, LENGTH), np.int32)
    state = lm2.init_state(model, 2)
    return np.asarray(lm2.apply_segments(lm2.LanguageModel(model), variables, tokens, state).logits)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return hf_folders.write(tmp_path_factory.mktemp("hf"), config_of("scaled"))


@pytest.fixture(scope="module")
def llama(folder):
    """The Llama's logits in the segments."""
    source = importing.Source(folder)
    return logits(model_beside(source), source.variables(one_device()))


@pytest.mark.parametrize("kind,blocks,same", [
    ("lm2", 1, "bits"), ("lm2", 2, "bits"), ("delta", 1, "bits"), ("armt", 1, "rounded")])
def test_the_first_logits_are_those_of_the_llama(kind, blocks, same, folder, llama, tmp_path):
    model, mesh = model_beside(importing.Source(folder), kind=kind, num_layers=blocks), one_device()
    new = hf_folders.variables(model)
    shardings = jax.tree.map(lambda leaf: partition.named(mesh, *[None] * leaf.ndim), new)
    variables, lines = Beginning(init_from_hf=str(folder)).weights(
        model, tmp_path, new, shardings, mesh)
    if same == "bits":
        assert "memory/o_proj/kernel is 0" in lines[-1]
        np.testing.assert_array_equal(logits(model, variables), llama)
    else:  # its values are 0 at first; its memory tokens follow the segment, which never sees them
        variables["params"]["memory_blocks"]["memory"]["v_proj"]["kernel"] *= 0
        np.testing.assert_allclose(logits(model, variables), llama, rtol=0, atol=1e-5)
    assert (tmp_path / "hf" / "tokenizer_config.json").exists()
    assert json.loads((tmp_path / "init_from.json").read_text())["missing"]
    if kind == "lm2" and blocks == 1:  # the same from a converted workdir
        importing.from_hf(folder, tmp_path / "converted")
        again, _ = Beginning(init_from=str(tmp_path / "converted")).weights(
            model, tmp_path / "other", hf_folders.variables(model), shardings, mesh)
        jax.tree.map(np.testing.assert_array_equal, variables, again)


def test_a_model_of_another_shape_is_refused(folder, tmp_path):
    wrong = ModelConfig(vocab_size=128, embed_dim=16)
    with pytest.raises(UserError, match="model.embed_dim is 16, there 32"):
        Beginning(init_from_hf=str(folder)).weights(wrong, tmp_path, {}, {}, None)
    with pytest.raises(UserError, match="give one of them"):
        Beginning("run", str(folder))


@pytest.mark.processes
def test_from_a_llama_to_one_with_a_memory_by_commands(tmp_path, capsys, compiled_quickly):
    """Two steps that train the memory alone, a resume, and the whole model as another's folder."""
    tokens = tokenizers.train([WORDS], kind="bpe", vocab_size=400)
    config = config_of("grouped") | {"vocab_size": 400}
    folder, run = tmp_path / "hf", tmp_path / "run"
    hf_folders.write(folder, config, tokens=tokens._tokenizer)
    arguments = ["--config=tiny", "--config.eval.lengths=()", "--config.eval.batch_size=8",
                 "--config.train.eval_every_steps=0", "--config.train.advance_accuracy=0",
                 "--config.data.curriculum=((0,1),)",
                 "--config.train.trainable=*/memory/*", "--config.model.memory.num_layers=1"]
    assert main(["train", *arguments, f"--init-from-hf={folder}", f"--workdir={run}",
                 "--config.train.num_steps=2"]) == 0
    printed = capsys.readouterr().out
    assert "the memory adds nothing at first" in printed and "stay as they are" in printed
    assert main(["train", *arguments, f"--init-from-hf={folder}", f"--workdir={run}",
                 "--config.model.embed_dim=64"]) == 2
    assert "decided by the Llama" in capsys.readouterr().err
    # Resumed without the folder, which is no longer needed.
    assert main(["train", *arguments, f"--workdir={run}", "--config.train.num_steps=3"]) == 0
    assert "resuming" in capsys.readouterr().out
    # The config of the run, which is that of another shape, also evaluates it.
    assert main(["eval", *arguments[:3], arguments[-1], f"--workdir={run}"]) == 2
    assert "eval.lengths is empty" in capsys.readouterr().err
    trained = lm2.load(run)
    assert trained.step == 3 and trained.tokenizer.digest == tokenizers.load(folder).digest
    memory = trained.variables["params"]["memory_blocks"]["memory"]
    assert np.abs(memory["o_proj"]["kernel"]).max() > 0
    exporting.to_hf(run, tmp_path / "out")
    stored, before = (test_convert.tensors_of(path) for path in (tmp_path / "out", folder))
    for name, value in before.items():
        np.testing.assert_array_equal(stored[name], value.astype(np.float32))
    told = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert told["chat_template"] == hf_folders.CHAT_TEMPLATE and told["bos_token"] == "<s>"


@pytest.mark.processes
def test_the_way_of_the_readme_from_texts_and_a_llama_to_a_model_with_a_memory(
        tmp_path, capsys, compiled_quickly):
    """The documents that were held out are watched and measured, and the card says all of it."""
    folder, converted, run, out = (tmp_path / name for name in ("hf", "llama", "mine", "out"))
    tokens = tokenizers.load(shard_cases.words())._tokenizer
    hf_folders.write(folder, config_of("grouped") | {"vocab_size": 400}, tokens=tokens)
    texts = shard_cases.write(tmp_path / "texts.jsonl", shard_cases.texts(3, 40))
    shard_cases.make([texts], tmp_path / "shards", folder, held_out=0.2)
    assert main(["convert", "from-hf", str(folder), f"--workdir={converted}"]) == 0
    assert main([
        "train", "--config=books", f"--init-from={converted}", f"--workdir={run}",
        f"--config.data.corpora={tmp_path / 'shards'}", "--config.train.trainable=*/memory/*",
        "--config.model.memory.num_layers=2", "--config.data.curriculum=((0,2,8),)",
        "--config.train.num_steps=2", "--config.eval.batch_size=8"]) == 0
    printed = capsys.readouterr().out
    assert "step 2: held-out loss" in printed and "perplexity.png" in printed
    assert (run / "eval" / "perplexity" / "perplexity.json").exists()
    assert main(["convert", "to-hf", str(out), f"--workdir={run}"]) == 0
    card = (out / "README.md").read_text()
    assert "- data: tokenized corpora `shards` (" in card and " tokens)" in card
    assert f"- trained on 8 x cpu with jax {jax.__version__}" in card
    assert "- evaluated at step 2" in card and "- began with the weights of `llama`" in card
    shutil.rmtree(tmp_path / "shards")  # whose tokens are not told then
    config = workdirs.stored_config(run)
    assert "tokenized corpora `shards`\n" in card_of_model.text(config, run, 2, 0, "float32")
