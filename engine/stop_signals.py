"""The signals by which a command is asked to end."""

from __future__ import annotations

import signal


def stop_signals() -> tuple[signal.Signals, ...]:
    """Those that this process is to hear: without SIGHUP if that is ignored, as under `nohup`.

    To be asked before any of them has a handler.
    """
    asking = (signal.SIGTERM, signal.SIGINT)
    return asking if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*asking, signal.SIGHUP)
