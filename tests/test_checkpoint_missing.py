"""Every tensor of every checkpoint is needed: one that is missing is an error that names it."""

import re

import checkpoints
import pytest

import quantreg
from quantreg.checkpoints import Config
from quantreg.checkpoints.folder import find
from quantreg.checkpoints.matching import further_layers, match

# What a model may do without: biases, an output matrix that may be the embeddings, and copies of both.
COPIES = r"layers\.\d+\.(embed_tokens|shared_head\.head)\.weight"
SPARE = re.compile(rf"(^|\.)(bias|lm_head\.weight|embed_out\.weight|{COPIES})$")


def table_of(golden):
    """The table that reads a golden, and its configuration with the defaults of the class."""
    config = Config(golden["config"])
    _, table = find(config)
    return table, config.filled(table.defaults)


def kinds_of(names):
    """One name of each kind: of the last layer, and of the last expert."""
    found = {}
    for name in sorted(names, key=lambda name: [int(part) for part in re.findall(r"(?<=\.)\d+(?=\.)", name)]):
        found[re.sub(r"(?<=\.)\d+(?=\.)", "{}", name)] = name
    return found.values()


@pytest.mark.parametrize("name", checkpoints.names())
def test_a_checkpoint_without_one_of_its_tensors_is_refused_by_name(name):
    golden, _ = checkpoints.load(name)
    table, config = table_of(golden)
    names = sorted(checkpoints.stated(golden["checkpoint"]))
    config.further = further_layers(names, table, config)
    whole = match(names, table, config, "a folder")
    used = {part for one in whole for parts in one.parts for part in parts}
    spared = []
    for missing in kinds_of(used):
        try:
            match([each for each in names if each != missing], table, config, "a folder")
        except quantreg.CheckpointError as error:
            told = re.search(r"lacks (\d+) tensors? .*?\((?:the first is )?(\S+)\)", str(error))
            assert told[1] != "1" or missing.endswith(told[2]) or told[2].endswith(missing)
        else:
            spared.append(missing)
    assert not [each for each in spared if not SPARE.search(each)]


@pytest.mark.parametrize("part", ["gate_up_proj_scales", "down_proj_blocks", "gate_up_proj_bias"])
def test_experts_of_gpt_oss_that_are_missing_are_named(part):
    golden, _ = checkpoints.load("gpt-oss")
    table, config = table_of(golden)
    names = sorted(checkpoints.stated(golden["checkpoint"]))
    with pytest.raises(quantreg.CheckpointError, match=rf"lacks .*model\.layers\.0\.mlp\.experts\.{part}"):
        match([name for name in names if part not in name], table, config, "a folder")
