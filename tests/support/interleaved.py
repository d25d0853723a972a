"""Runs a function while other threads interrupt it: at every line in turn, or all at the same moment."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import quantreg

PACKAGE = str(Path(quantreg.__file__).parent)


def interruptions(make):
    """Yield (what the function returned, what the interrupting thread returned) for each line of quantreg that it runs.

    ``make()`` returns (function, other). The function runs until it reaches the line. Then another thread calls
    ``other``, and the function waits until that is done. If it waits for the function itself, because of a lock, the
    function goes on.
    """
    line = 0
    while True:
        function, other = make()
        with ThreadPoolExecutor(1) as pool:
            seen, interrupting = 0, None

            def count(frame, event, argument, line=line, other=other, pool=pool):
                nonlocal seen, interrupting
                if not frame.f_code.co_filename.startswith(PACKAGE):
                    return None
                if event == "line":
                    if seen == line:
                        interrupting = pool.submit(other)
                        _wait(interrupting)
                    seen += 1
                return count

            before = sys.gettrace()
            sys.settrace(count)
            try:
                found = function()
            finally:
                sys.settrace(before)
            if interrupting is None:
                assert line, "the function runs no line of quantreg"
                return
            yield found, interrupting.result(10)
        line += 1


def _wait(future):
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    done.wait(0.05)


def at_once(*functions):
    """Call each function in a thread of its own, all at the same moment; return what they returned, in order."""
    start = threading.Barrier(len(functions))

    def run(function):
        start.wait(60)
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(run, function) for function in functions]]
