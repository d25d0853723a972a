"""Writing and reading at positions from several threads, locks, held signals, and the files built on them."""

import errno
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from quantreg import OutputError
from quantreg.storage import AtomicFile, PartialFile, PositionedFile, one_at_a_time, signals_held
from quantreg.storage.locks import lock_file

PIECE, PIECES, THREADS = 100, 48, 6


def content():
    return random.Random(1).randbytes(PIECE * PIECES)


def offsets():
    """The positions of all pieces in a random order."""
    order = [PIECE * i for i in range(PIECES)]
    random.Random(2).shuffle(order)
    return order


def in_threads(function):
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, offsets()))


@pytest.fixture
def without_positioned_calls(monkeypatch):
    """A system without pread and pwrite, such as Windows, on which threads switch right after each seek."""
    seek = os.lseek

    def slow_seek(*args):
        position = seek(*args)
        time.sleep(0.0005)
        return position

    for name in ("pwrite", "pwritev", "pread", "preadv"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "lseek", slow_seek)


def atomic(path):
    return AtomicFile(path, size=PIECE * PIECES)


def partial(path):
    return PartialFile(path, {"made from": "pieces"}, size=PIECE * PIECES)


@pytest.mark.parametrize("make", [atomic, partial])
def test_threads_write_pieces_where_the_system_has_no_pwrite(make, tmp_path, without_positioned_calls):
    data, path = content(), tmp_path / "out"
    with make(path) as file:
        in_threads(lambda at: file.pwrite(data[at : at + PIECE], at, "tensor"))
    assert path.read_bytes() == data


def test_threads_read_pieces_where_the_system_has_no_preadv(tmp_path, without_positioned_calls):
    path = tmp_path / "in"
    path.write_bytes(content())
    with path.open("rb", buffering=0) as opened:
        file = PositionedFile(opened.fileno())

        def read(at):
            buffer = bytearray(PIECE)
            assert file.read_into(memoryview(buffer), at) == PIECE
            return bytes(buffer)

        assert in_threads(read) == [content()[at : at + PIECE] for at in offsets()]


@pytest.mark.parametrize("positioned", [True, False])
def test_reading_past_the_end_returns_what_there_is(tmp_path, positioned, request):
    if not positioned:
        request.getfixturevalue("without_positioned_calls")
    path = tmp_path / "in"
    path.write_bytes(b"0123456789")
    with path.open("rb", buffering=0) as opened:
        file, buffer = PositionedFile(opened.fileno()), bytearray(6)
        assert file.read_into(memoryview(buffer), 7) == 3
        assert buffer[:3] == b"789"
        assert file.read_into(memoryview(buffer), 10) == 0


# PartialFile


def write_pieces(path, *numbers, resume=False, stop=False):
    """Write some pieces and record them; ``stop`` ends the block with an exception."""
    with PartialFile(path, {"made from": "pieces"}, size=PIECE * PIECES, resume=resume, force=True) as file:
        missing = [i for i in numbers if not file.has(PIECE * i, PIECE)]
        for i in missing:
            file.pwrite(content()[PIECE * i : PIECE * (i + 1)], PIECE * i, f"piece {i}")
        if stop:
            raise KeyboardInterrupt
    return missing


def test_a_resumed_file_lacks_the_pieces_that_were_not_written_or_are_damaged(tmp_path):
    path, unfinished = tmp_path / "out", tmp_path / "out.partial"
    with pytest.raises(KeyboardInterrupt):
        write_pieces(path, 0, 1, 5, 7, stop=True)
    raw = bytearray(unfinished.read_bytes())
    raw[PIECE * 5 + 3] ^= 1
    unfinished.write_bytes(raw)
    missing = write_pieces(path, *range(PIECES), resume=True)
    assert missing == sorted({*range(PIECES)} - {0, 1, 7})
    assert path.read_bytes() == content()


def test_a_finished_file_that_differs_from_its_journal_is_not_overwritten(tmp_path):
    path = tmp_path / "out"
    write_pieces(path, *range(PIECES))  # without finish(), so the journal stays
    path.write_bytes(bytes(PIECE) + content()[PIECE:])
    with pytest.raises(OutputError, match=r"do not match the journal .*: remove both to start over"):
        write_pieces(path, *range(PIECES), resume=True)
    assert path.read_bytes()[:PIECE] == bytes(PIECE)


def test_a_folder_that_is_missing_or_a_full_disk_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="cannot be written: No such file or directory: create its folder"):
        AtomicFile(tmp_path / "none" / "out").__enter__()
    full = pytest.raises(OutputError, match="cannot be written: No space left on device: free some space")
    with full, AtomicFile(tmp_path / "out"):
        monkeypatch.setattr(os, "fsync", full_disk)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def full_disk(fd):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Locks


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be locked")
def test_one_block_at_a_time_runs_for_a_folder(tmp_path):
    (tmp_path / "other").mkdir()
    entered = threading.Event()

    def enter():
        with one_at_a_time(tmp_path):
            entered.set()

    second = threading.Thread(target=enter)
    with one_at_a_time(tmp_path):
        second.start()
        with one_at_a_time(tmp_path / "other"):  # another folder does not wait
            assert not entered.wait(0.1)
    assert entered.wait(10)
    second.join()


def test_a_locked_file_is_free_again_when_it_is_closed(tmp_path):
    path = tmp_path / "file"
    path.touch()
    first, second = (os.open(path, os.O_RDWR) for _ in range(2))
    lock_file(first)
    with pytest.raises(OSError):
        lock_file(second)
    os.close(first)
    lock_file(second)
    os.close(second)


# Signals


SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


@pytest.fixture
def delivered():
    """The signals that reached the program's own handlers."""
    seen = []
    old = {number: signal.signal(number, lambda number, frame: seen.append(number)) for number in SIGNALS}
    yield seen
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("error", [None, ValueError])
def test_a_signal_in_the_block_is_delivered_after_it(number, error, delivered):
    handler = signal.getsignal(number)

    def block():
        with signals_held():
            signal.raise_signal(number)
            assert delivered == []
            if error:
                raise error

    if error:
        with pytest.raises(error):
            block()
    else:
        block()
    assert delivered == [number]
    assert signal.getsignal(number) is handler


def test_ctrl_c_in_the_block_interrupts_after_it():
    done = []

    def block():
        with signals_held():
            signal.raise_signal(signal.SIGINT)
            done.append("the whole block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done


def test_in_another_thread_signals_are_left_alone(delivered):
    handlers = [signal.getsignal(number) for number in SIGNALS]

    def block():
        with signals_held():
            return [signal.getsignal(number) for number in SIGNALS]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(block).result() == handlers
