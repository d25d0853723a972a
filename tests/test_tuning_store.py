"""The store of encoded tensors survives a kill at any moment, and takes nothing that belongs to something else."""

import os

import numpy as np
import pytest

from quantreg.tuning.store import Store

DATA = {f"blk.{i}.w": np.full((4, 3 + i), i, np.uint8) for i in range(4)}
IDENTITY = {"model": "abc", "types": ["Q4_K"], "chunks": (1, 2)}


class Killed(BaseException):
    """In place of the kill: nothing of the store's own code runs after it."""


def killed_at(call, monkeypatch):
    """Let the process die at the n-th call that changes a file."""
    left = [call]

    def dying(real):
        def act(*args, **keywords):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*args, **keywords)

        return act

    monkeypatch.setattr(os, "fsync", dying(os.fsync))
    monkeypatch.setattr(os, "replace", dying(os.replace))
    monkeypatch.setattr(np, "savez", dying(np.savez))


def fill(store):
    for name, data in DATA.items():
        store.put(name, data, {"scale": np.float32(len(name))}, {"kept": 1})


@pytest.mark.parametrize("call", range(3 * len(DATA)))
def test_a_kill_at_any_moment_leaves_whole_tensors(call, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        killed_at(call, patched)
        with pytest.raises(Killed):
            fill(Store(tmp_path / "s", IDENTITY))
    again = Store(tmp_path / "s", IDENTITY)
    assert len(again) == call // 3
    assert all(again.facts(name) == {"kept": 1} for name in again)
    for name, data in DATA.items():
        if name not in again:
            again.put(name, data, {"scale": np.float32(len(name))})
    whole = Store(tmp_path / "s", IDENTITY)
    assert {name: whole[name].read_bytes() for name in whole} == {name: d.tobytes() for name, d in DATA.items()}
    assert all(whole.parameters(name)["scale"] == len(name) for name in whole)


def test_a_store_of_something_else_is_emptied(tmp_path):
    Store(tmp_path / "s", IDENTITY).put("w", DATA["blk.1.w"])
    assert list(Store(tmp_path / "s", {"model": "other"})) == []
    assert list(Store(tmp_path / "s", IDENTITY)) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"identity": 1}', "null"])
def test_a_damaged_listing_is_as_good_as_none(text, tmp_path):
    store = Store(tmp_path / "s", IDENTITY)
    store.put("w", DATA["blk.1.w"])
    (tmp_path / "s" / "tensors.json").write_text(text)
    again = Store(tmp_path / "s", IDENTITY)
    assert list(again) == []
    again.put("w", DATA["blk.2.w"])
    assert again["w"].read_bytes() == DATA["blk.2.w"].tobytes()


def test_a_tensor_whose_file_is_gone_is_encoded_again(tmp_path):
    store = Store(tmp_path / "s", IDENTITY)
    store.put("a", DATA["blk.1.w"])
    store.put("b", DATA["blk.2.w"])
    store["a"].unlink()
    again = Store(tmp_path / "s", IDENTITY)
    assert list(again) == ["b"]
    again.put("a", DATA["blk.3.w"])
    assert again["b"].read_bytes() == DATA["blk.2.w"].tobytes()
    assert again["a"].read_bytes() == DATA["blk.3.w"].tobytes()


def test_parameters_of_a_tensor_that_was_not_finished_do_not_become_those_of_another(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        killed_at(2, patched)  # the parameters are written, the listing is not
        with pytest.raises(Killed):
            Store(tmp_path / "s", IDENTITY).put("a", DATA["blk.1.w"], {"scale": np.float32(7)})
    store = Store(tmp_path / "s", IDENTITY)
    store.put("b", DATA["blk.2.w"])
    assert store.parameters("b") is None


def test_other_files_in_the_folder_are_not_touched(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "notes.txt").write_text("mine")
    store = Store(tmp_path / "s", IDENTITY)
    store.put("a", DATA["blk.1.w"])
    store.remove()
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["notes.txt"]


def test_a_store_that_is_removed_leaves_no_folder(tmp_path):
    store = Store(tmp_path / "s", IDENTITY)
    store.put("a", DATA["blk.1.w"], {"scale": np.float32(7)})
    store.remove()
    assert not (tmp_path / "s").exists()
