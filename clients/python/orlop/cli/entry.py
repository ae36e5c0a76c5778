"""Where the command begins: interrupted while its modules are loaded, it ends as later, without a word."""

import os
import signal


def main() -> None:
    """Run the command."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
        from orlop.cli.main import main as command

        signal.signal(signal.SIGINT, signal.default_int_handler)
    else:
        from orlop.cli.main import main as command
    command()
