"""Configs of earlier versions: stored ones load, and a user's own is told what became of a key."""

import json

import pytest
from config_keys import FOLDER, KEYS, TINY, refusal

from lm2_jax.config import legacy
from lm2_jax.config.files import differences, from_stored, load_config, to_dict
from lm2_jax.config.legacy import Removed

STORED = sorted(FOLDER.rglob("provenance.json"))


def _flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("path", STORED, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_committed_results_of_earlier_versions_load(path):
    stored = json.loads(path.read_text("utf-8"))["config"]
    read = to_dict(from_stored(stored))
    kept = {key: value for key, value in _flat(stored)
            if key not in legacy.REMOVED and key not in legacy.RENAMED}
    assert kept == {key: value for key, value in _flat(read) if key in kept}
    assert to_dict(from_stored(read)) == read
    assert read["eval"]["prompt_style"] == "fine_tuned"
    flat = dict(_flat(read))
    assert all(flat[key] == value for key, value in legacy.BEFORE.items() if key not in kept)


@pytest.mark.parametrize("changes", [
    {"model.memory.kind": "rmt"}, {"model.memory.kind": "armt"}, {"model.memory.num_layers": "0"}])
def test_runs_without_an_lm2_memory_stay_equal_to_their_config(changes):
    """Whatever the write of LM2 is by default now, and was in the version that stored them."""
    config = load_config(TINY, changes)
    stored = to_dict(config)
    for key in ("write", "coupled_gates", "gates_see_slot", "slot_keys"):
        del stored["model"]["memory"][key]
    stored["model"]["memory"]["forget_gate_bias"] = 3.0
    assert differences(from_stored(stored), config) == []
    assert len(differences(from_stored(stored), load_config(TINY))) >= 4


@pytest.fixture
def changed(monkeypatch):
    """A version that has lost two keys and renamed one."""
    monkeypatch.setattr(legacy, "REMOVED", {
        "train.spare": Removed("training decides it"),
        "model.memory.shape": Removed("banks are square", only="square")})
    monkeypatch.setattr(legacy, "RENAMED", {
        "eval.count": legacy.Renamed("eval.num_samples"),
        "steps": legacy.Renamed("train.num_steps", {"a few": 3})})


def test_removed_keys_are_dropped_and_renamed_ones_move(changed):
    config = load_config(TINY)
    stored = to_dict(config)
    stored["train"]["spare"], stored["model"]["memory"]["shape"] = 7, "square"
    stored["eval"]["count"], stored["steps"] = stored["eval"].pop("num_samples"), 40
    del stored["train"]["num_steps"]
    before = json.dumps(stored)
    assert from_stored(stored) == config and json.dumps(stored) == before


def test_a_value_whose_results_are_gone_is_refused(changed):
    stored = to_dict(load_config(TINY))
    stored["model"]["memory"]["shape"] = "round"
    with pytest.raises(ValueError, match="^model.memory.shape is 'round', .* banks are square$"):
        from_stored(stored)


def test_a_users_own_file_is_told_in_one_line(changed, tmp_path):
    assert refusal({"train.spare": "3"}) == (
        "train.spare was removed: training decides it; leave it out")
    assert refusal({"eval.count": "3"}) == "eval.count is now called eval.num_samples"
    path = tmp_path / "own.py"
    path.write_text("from ml_collections import ConfigDict\n\n\ndef get_config():\n"
                    "    return ConfigDict(dict(train=dict(spare=3)))\n")
    assert "train.spare was removed: training decides it; leave it out" in refusal({}, path)


def test_renamed_keys_lead_to_keys():
    assert {new.key for new in legacy.RENAMED.values()} <= set(KEYS)
