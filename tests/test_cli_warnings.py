"""Warnings stay readable when there are many of them."""

import numpy as np

import quantreg
from quantreg import cli
from quantreg.cli.grouping import grouped


def test_a_hundred_warnings_of_a_kind_are_one_line():
    assert grouped(f"blk.{i}.ffn_up.weight: {i} % of the columns are zero" for i in range(100)) == [
        "blk.0.ffn_up.weight: 0 % of the columns are zero (and 99 more warnings like this: blk.1.ffn_up.weight, "
        "blk.2.ffn_up.weight, blk.3.ffn_up.weight ...)"
    ]


def test_roles_do_not_make_another_kind():
    (line,) = grouped(f"entry blk.{i}.{role}.weight: lost" for i in range(2) for role in ("attn_q", "ffn_up"))
    assert line.startswith("entry blk.0.attn_q.weight: lost (and 3 more warnings like this: blk.0.ffn_up.weight, ")


def test_few_warnings_and_other_kinds_are_told_in_full():
    told = ["a.weight: lost", "b.weight: lost", "no imatrix", "c.weight: lost", "d.weight is odd"]
    assert grouped(told) == ["a.weight: lost", "b.weight: lost", "c.weight: lost", "no imatrix", "d.weight is odd"]
    assert grouped(["same"] * 9) == ["same"]
    assert grouped([]) == []


def test_warnings_that_differ_in_words_are_not_grouped():
    told = [f"the {word} is odd" for word in ("a", "b", "c", "d")]
    assert grouped(told) == told


def test_patterns_of_a_long_file_are_one_line():
    told = [f"tensor type attn_{word}=Q8_0 has no effect: no tensor's name matches it" for word in "abcdef"]
    assert grouped(told) == [f"{told[0]} (and 5 more warnings like this: attn_b, attn_c, attn_d ...)"]


def test_the_command_groups_and_the_result_does_not(tmp_path, capsys):
    tensors = {f"blk.{i}.attn_q.weight": np.ones((64, 256), np.float32) for i in range(12)}
    quantreg.write(tmp_path / "m.gguf", {"general.architecture": "llama", "llama.block_count": 12}, tensors)
    given = [str(tmp_path / "m.gguf"), str(tmp_path / "out.gguf")]
    assert cli.main(["quantize", "--split-max-size", "5000", *given, "Q8_0"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "split_max_size" in line]
    assert len(lines) == 1
    assert "(and 11 more warnings like this: blk.1.attn_q.weight, " in lines[0]
    result = quantreg.quantize_file(given[0], tmp_path / "b.gguf", "Q8_0", split_max_size=5000)
    assert sum("split_max_size" in text for text in result.warnings) == 12
