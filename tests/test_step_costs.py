"""FLOPs, peak memory, collectives and size of the training steps, against those on record."""

import costs_of_steps
import pytest


@pytest.mark.slow
def test_costs_are_those_on_record():
    """To write them anew: python tests/tools/costs_of_steps.py --write"""
    stored = costs_of_steps.stored()
    if not stored:
        pytest.skip("no record of the steps' costs for this version of jax")
    found = costs_of_steps.in_a_process()
    assert set(found) == set(stored) - {costs_of_steps.ON_TPU}
    assert costs_of_steps.changes(found, stored) == []


def test_more_than_five_per_cent_are_a_change():
    stored = {"step": {"flops": 1000, "collectives": 0, "peak": 500}, "another": {"flops": 1}}
    assert costs_of_steps.changes({"step": {"flops": 1050, "collectives": 0, "peak": 475}},
                                  stored) == []
    assert costs_of_steps.changes({"step": {"flops": 1051, "collectives": 1, "peak": 474}},
                                  stored) == [
        "step: flops 1,051, on record 1,000 (+5.1%)", "step: collectives 1, on record 0",
        "step: peak 474, on record 500 (-5.2%)"]
    assert costs_of_steps.changes({"new": {"flops": 3}}, stored) == [
        "new: flops 3, on record 0"]
    assert costs_of_steps.changes({"step": {"flops": 1000, "collectives": 0}}, stored) == [
        "step: peak 0, on record 500 (-100.0%)"]
