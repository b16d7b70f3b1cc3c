"""Where the code of modules is, as ranks state it."""

from ttrace.ir.module_code import (
    ModuleCode,
    code_key,
    code_of,
    stated_code,
    without_code,
)


def test_what_ranks_state_is_found_from_within():
    ranks = [
        {code_key("layers.*"): "src/a b.py:12 Block.forward", "precision": "high"},
        {code_key(""): "train.py:3 Net.forward", "module.norm:eps": "1e-5"},
    ]
    stated = stated_code(ranks)
    assert stated == {
        "layers.*": "src/a b.py:12 Block.forward",
        "@root": "train.py:3 Net.forward",
    }
    block = ModuleCode(
        module="layers.7", name="Block.forward", file="src/a b.py", line=12
    )
    assert code_of("layers.7", stated) == code_of("layers.7.mlp.up", stated) == block
    net = code_of("norm", stated)
    assert net is not None and (net.module, net.line) == ("@root", 3)
    assert code_of("layers.7", {}) is None
    assert without_code(ranks[0]) == {"precision": "high"}
    assert list(without_code(ranks[1])) == ["module.norm:eps"]
