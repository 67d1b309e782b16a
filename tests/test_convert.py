"""`lm2 convert`: a Llama of the transformers library to a workdir and back.

The logits of transformers were written by tests/tools/make_golden_convert.py.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import hf_folders
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import lm2_jax as lm2
from lm2_jax import partition
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.cli import main
from lm2_jax.config import CheckpointConfig, Config, MemoryConfig, ModelConfig, files
from lm2_jax.convert import exporting, importing, tensors
from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.errors import UserError

GOLDEN = Path(__file__).parent / "parity" / "convert_golden.npz"
SHAPES = ("grouped", "untied", "scaled")
FAST = pytest.mark.usefixtures("compiled_quickly")


@cache
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def config_of(name):
    return json.loads(str(golden()[f"{name}_config"]))


def tensors_of(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors"))
            for name, tensor in load_file(path).items()}


def same_bytes(some, others):
    return some.keys() == others.keys() and all(
        some[name].dtype == others[name].dtype and some[name].tobytes() == others[name].tobytes()
        for name in some)


def logits(run, tokens):
    state = lm2.init_state(run.config.model, len(tokens))
    return np.asarray(lm2.apply_segments(run.model, run.variables, tokens, state).logits)


@FAST
@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_transformers_and_come_back(name, tmp_path):
    config = config_of(name)
    weights = hf_folders.weights(config, np.float32)
    hf_folders.write(tmp_path / "hf", config, weights, files=3)
    source = importing.from_hf(tmp_path / "hf", tmp_path / "run")
    assert source.model.vocab_size == 128 and source.rows == 40
    wanted = golden()[f"{name}_logits"]
    run = lm2.load(tmp_path / "run")
    ours = logits(run, golden()["tokens"])
    assert wanted.std() > 0.5
    np.testing.assert_allclose(ours[..., :40], wanted, rtol=0, atol=1e-5)
    # The rows that were added have the mean logit.
    np.testing.assert_allclose(ours[..., 40:], np.repeat(wanted.mean(-1, keepdims=True), 88, -1),
                               rtol=0, atol=1e-5)
    exporting.to_hf(tmp_path / "run", tmp_path / "back", shard_bytes=20_000)
    assert same_bytes(tensors_of(tmp_path / "back"), weights)


@FAST
def test_bfloat16_and_every_small_file_come_back(tmp_path, capsys):
    config = config_of("grouped") | {"auto_map": {"AutoModel": "x.py"}, "bos_token_id": [1, 2]}
    weights = hf_folders.weights(config)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]  # of a tied model, as stored
    folder, workdir, back = tmp_path / "hf", tmp_path / "run", tmp_path / "back"
    hf_folders.write(folder, config, weights)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "x.py").write_text("raise SystemExit('run')")
    assert main(["convert", "from-hf", str(folder), f"--workdir={workdir}",
                 "--segment-length=16"]) == 0
    assert "auto_map is ignored" in capsys.readouterr().out
    assert main(["convert", "to-hf", str(back), f"--workdir={workdir}"]) == 0
    assert same_bytes(tensors_of(back), weights)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (back / name).read_bytes() == (folder / name).read_bytes()
    kept = json.loads((back / "config.json").read_text())
    assert "auto_map" not in kept and not (back / "x.py").exists()
    assert kept["architectures"] == ["LlamaForCausalLM"] and kept["dtype"] == "bfloat16"
    changed = {"auto_map", "architectures", "dtype"}
    assert {key: value for key, value in kept.items() if key not in changed} == {
        key: value for key, value in config.items() if key not in changed}
    assert "`model.embed_dim` | `32`" in (back / "README.md").read_text()
    # The workdir is one as any other, and its config file is of its model.
    run = lm2.load(workdir)
    assert files.load_config(workdir / "config.py").model == run.config.model
    assert run.config.model.segment_length == 16
    tokens = run.tokenizer
    assert (tokens.bos, tokens.eos, tokens.pad) == ("<s>", "</s>", tokenizers.PAD)
    # It is not a run, and a folder that holds something is left as it is.
    assert main(["train", "--config=tiny", f"--workdir={workdir}",
                 "--config.eval.batch_size=8"]) == 2
    assert "holds a converted model" in capsys.readouterr().err
    before = sorted(tmp_path.rglob("*"))
    for direction, from_or_to, there in (("from-hf", folder, workdir), ("to-hf", back, workdir),
                                         ("to-hf", tmp_path / "none", folder)):
        assert main(["convert", direction, str(from_or_to), f"--workdir={there}"]) == 2
    assert sorted(tmp_path.rglob("*")) == before


@FAST
def test_no_device_has_more_than_its_part(tmp_path, monkeypatch):
    """Every read is of a part of a tensor, and the parts together are what one device has."""
    folder = hf_folders.write(tmp_path / "hf", config_of("untied"))
    source = importing.Source(folder)
    one = source.variables(partition.make_mesh({}, jax.devices()[:1]))
    shares, read = [], tensors.Tensors.read

    def recording(self, name, *index):
        part = read(self, name, *index)
        shares.append(part.size / np.prod(self.shapes[name]) if part.ndim > 1 else 0)
        return part

    mesh = partition.make_mesh({"fsdp": 8})
    monkeypatch.setattr(tensors.Tensors, "read", recording)
    many = source.variables(mesh)
    assert max(shares) == 1 / 8
    jax.tree.map(np.testing.assert_array_equal, one, many)
    kernel = many["params"]["blocks"]["attention"]["q_proj"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 4, 4, 12)}


def test_all_that_is_wrong_with_the_tensors_is_said_at_once(tmp_path):
    config = config_of("untied")
    weights = hf_folders.weights(config)
    weights["model.layers.0.rotary_emb.inv_freq"] = np.ones(4, np.float32)  # of older files
    del weights["model.norm.weight"], weights["model.layers.1.mlp.up_proj.weight"]
    weights["model.layers.0.self_attn.q_proj.bias"] = np.zeros(48, np.float32)
    weights["lm_head.weight"] = weights["lm_head.weight"][:30]
    weights["model.layers.0.mlp.up_proj.weight"] = np.zeros((48, 32), np.int8)
    with pytest.raises(UserError) as error:
        importing.Source(hf_folders.write(tmp_path, config, weights))
    assert str(error.value).endswith(
        "missing: model.layers.1.mlp.up_proj.weight, model.norm.weight; "
        "not of this model: model.layers.0.self_attn.q_proj.bias; "
        "of another shape: lm_head.weight [30, 32], not [40, 32]; "
        "of a dtype other than F32, BF16, F16: model.layers.0.mlp.up_proj.weight I8")


def test_an_unembedding_of_a_tied_model_must_be_its_embedding(tmp_path):
    config = config_of("grouped")
    weights = hf_folders.weights(config)
    weights["lm_head.weight"] = -weights["model.embed_tokens.weight"]
    with pytest.raises(UserError, match="lm_head.weight differs from .* set it to false"):
        importing.Source(hf_folders.write(tmp_path, config, weights))


@FAST
def test_half_precision_comes_back_over_several_files(tmp_path):
    """Tensors of three dtypes, and the frequencies of older files, which are not parameters."""
    weights = hf_folders.weights(config_of("untied"), np.float16)
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.float32)
    weights["lm_head.weight"] = weights["lm_head.weight"].astype(ml_dtypes.bfloat16)
    stored = weights | {"model.layers.0.rotary_emb.inv_freq": np.ones(4, np.float32)}
    hf_folders.write(tmp_path / "hf", config_of("untied"), stored)
    source = importing.from_hf(tmp_path / "hf", tmp_path / "run")
    assert "rotary_emb.inv_freq of older files is left out" in source.notes[0]
    done = exporting.to_hf(tmp_path / "run", tmp_path / "back", shard_bytes=20_000)
    assert done.dtype == "float16" and same_bytes(tensors_of(tmp_path / "back"), weights)
    # The index of the files is read again.
    again = importing.Source(tmp_path / "back").tensors
    assert again.shapes == {name: tensor.shape for name, tensor in weights.items()}
    index = json.loads((tmp_path / "back" / tensors.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in weights.values())


def test_files_that_are_not_safetensors_are_refused(tmp_path):
    folder = hf_folders.write(tmp_path, config_of("grouped"), files=2)
    index, part = folder / tensors.INDEX, folder / "model-00002-of-00002.safetensors"
    whole, part_bytes = index.read_text(), part.read_bytes()

    def refusal():
        with pytest.raises(UserError) as error:
            importing.Source(folder)
        return str(error.value)

    part.write_bytes(part_bytes[:100])
    assert "cannot be read as safetensors" in refusal()
    part.unlink()
    assert "lacks files that" in refusal() and part.name in refusal()
    index.write_text(whole.replace(part.name, f"../{part.name}"))
    assert "must name files in its own folder" in refusal()
    index.write_text("{")
    assert "is not an index" in refusal()
    (folder / tensors.SINGLE).write_bytes(part_bytes)
    assert "has both model.safetensors and" in refusal()
    (folder / tensors.SINGLE).unlink()
    index.unlink()
    (folder / "model-00001-of-00002.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    assert "pytorch_model.bin may be pickles" in refusal()


def write_run(workdir, model):
    """A workdir of a model with random variables, as after 7 steps of training."""
    made = hf_folders.tokenizer(30)
    workdir.mkdir()
    made.save(str(workdir / "tokenizer.json"))
    tokenizers.load(workdir).save(workdir / "tokenizer.json")
    workdirs.store_config(Config(model=model), workdir)
    variables = hf_folders.variables(model)
    checkpointer = Checkpointer(workdir, CheckpointConfig())
    checkpointer.save(7, variables, {"step": jnp.int32(7)}, {"next_step": 7})
    checkpointer.wait()
    checkpointer.close()


@FAST
@pytest.mark.parametrize("kind,layers", [("lm2", 1), ("armt", 2)])
def test_a_model_with_a_memory_comes_back(kind, layers, tmp_path):
    model = ModelConfig(vocab_size=128, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1,
                        mlp_dim=24, segment_length=8, tie_embeddings=False,
                        memory=MemoryConfig(kind=kind, num_layers=layers, num_slots=3, num_heads=2,
                                            key_dim=4))
    write_run(tmp_path / "run", model)
    done = exporting.to_hf(tmp_path / "run", tmp_path / "hf")
    assert done.step == 7 and done.dtype == "float32"
    stored = tensors_of(tmp_path / "hf")
    assert stored["model.embed_tokens.weight"].shape == (33, 16)  # tokens, not padding
    assert ("model.memory_tokens.embedding" in stored) == (kind == "armt")
    name = "model.layers.0.memory.q_proj.kernel"
    assert name in stored and (name.replace("0", "1") in stored) == (layers == 2)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["model_type"] == "lm2"  # transformers must not load it without its memory
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "after step 7" in card and "`model.memory.num_slots` | `3`" in card
    importing.from_hf(tmp_path / "hf", tmp_path / "again")
    tokens = np.random.default_rng(0).integers(0, 30, (2, 24), np.int32)
    one, other = (lm2.load(tmp_path / name) for name in ("run", "again"))
    assert one.config.model == other.config.model
    np.testing.assert_array_equal(logits(one, tokens)[..., :33], logits(other, tokens)[..., :33])
    # Rounded when that is asked for, as jax rounds.
    exporting.to_hf(tmp_path / "run", tmp_path / "half", dtype="bfloat16")
    half = tensors_of(tmp_path / "half")
    assert all(np.array_equal(half[name], value.astype(ml_dtypes.bfloat16))
               for name, value in stored.items())


@FAST
def test_no_file_names_tokens_that_the_exported_tokenizer_has_not(tmp_path):
    """Our special tokens take the places of reserved ones, which the Llama's files still name."""
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(4)]
    tokens = hf_folders.tokenizer(20)
    tokens.add_special_tokens(reserved)
    ids = {name: tokens.token_to_id(name) for name in reserved}
    folder = hf_folders.write(tmp_path / "hf", config_of("grouped"), tokens=tokens)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {
        "added_tokens_decoder": {str(i): {"content": name} for name, i in ids.items()},
        "additional_special_tokens": reserved}))
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    model = ModelConfig(vocab_size=128, embed_dim=32, num_layers=1, num_heads=2, num_kv_heads=1,
                        mlp_dim=48, segment_length=8, memory=MemoryConfig(num_layers=0))
    write_run(tmp_path / "run", model)
    importing.keep(folder, tmp_path / "run")
    tokenizers.load(folder).save(tmp_path / "run" / "tokenizer.json")
    exporting.to_hf(tmp_path / "run", tmp_path / "back")
    kept = "".join(path.read_text() for path in (tmp_path / "back").glob("*.json"))
    assert "<answer>" in kept and "chat_template" in kept
    assert reserved[0] not in kept and not (tmp_path / "back" / "added_tokens.json").exists()


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_parameters_are_in_memory_once(tmp_path):
    """Beside them there is room for the largest array and for 150 MB, not for a copy of them."""
    config = config_of("grouped") | {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "head_dim": 64,
        "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 4000}
    hf_folders.write(tmp_path / "hf", config)
    tool = Path(__file__).parent / "tools" / "memory_of_converting.py"
    ran = subprocess.run([sys.executable, tool, tmp_path / "hf", tmp_path / "run"], check=True,
                         capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    found = json.loads(ran.stdout)
    assert found["parameters"] > 250e6
    assert found["peak"] - found["before"] < found["parameters"] + found["largest"] + 150e6
