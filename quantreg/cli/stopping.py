"""Signals that end a command."""

import signal

__all__ = ["stop_as_ctrl_c_does"]


def stop_as_ctrl_c_does() -> None:
    """Let SIGTERM, SIGHUP and SIGBREAK end the command as Ctrl-C does, so that it saves what it has and cleans up."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    # SIGHUP, when the terminal closes, does not exist on Windows; SIGBREAK, Ctrl-Break, exists only there.
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP: keep it so
            signal.signal(number, stop)
