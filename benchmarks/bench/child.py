"""Run a command and print its wall time, CPU time and peak memory as JSON.

This is a separate process, started with -I -S, because it must be small: Linux counts the memory that a process had
before it became the command towards the peak of the command.
"""

import json
import os
import resource
import sys
import time


def main(command):
    unit = 1 if sys.platform == "darwin" else 1024
    log = os.open(os.environ["BENCH_LOG"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    begun = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - begun
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "code": os.waitstatus_to_exitcode(status),
                "seconds": seconds,
                "user": usage.ru_utime,
                "system": usage.ru_stime,
                "peak_mib": usage.ru_maxrss * unit / 2**20,
                "floor_mib": own * unit / 2**20,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
