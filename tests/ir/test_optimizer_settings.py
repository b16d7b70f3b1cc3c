"""How traces name settings of optimizers and write them down."""

import numpy as np
import pytest

from ttrace.ir.optimizer_settings import (
    SettingHistory,
    parse_setting_key,
    setting_key,
    setting_text,
    without_optimizer,
)


def test_keys_can_be_read_again():
    assert parse_setting_key(setting_key(1, "weight_decay")) == (
        "group1",
        "weight_decay",
    )
    assert parse_setting_key(setting_key(None, "eps")) == ("all", "eps")
    assert parse_setting_key("tensor_parallel") is None
    assert without_optimizer({"tp": 2, setting_key(0, "eps"): "1"}) == {"tp": 2}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((0.9, 0.999), "(0.9, 0.999)"),
        (float(np.float32(1e-8)), "1e-08"),
        (float(np.float32(0.999)), "0.999"),
        (0, "0"),
        (True, "True"),
    ],
)
def test_texts_are_those_that_somebody_wrote(value, text):
    assert setting_text(value) == text


def test_only_changes_are_stated():
    history, key = SettingHistory(), setting_key(0, "weight_decay")
    assert history.changed(0, {key: 0.1}) == {key: "0.1"}
    assert history.changed(1, {key: 0.1}) == {}
    assert history.changed(2, {key: 0.0}) == {key: "0.1; from step 2 on 0"}


def test_a_schedule_is_not_written_down_whole():
    history, key = SettingHistory(), setting_key(0, "momentum")
    stated = [history.changed(step, {key: step}) for step in range(9)]
    assert stated[4][key].endswith("; from step 3 on 3; ...")
    assert not any(stated[5:])
