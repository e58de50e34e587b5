"""The entry point of `tumorgen`, and `python -m tumorgen_cli.cli` for torchrun and accelerate.

Little is imported at first: Ctrl-C during the other imports, which take a second, ends quietly.
"""

import signal


def start() -> None:
    """Run the command of this process."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tumorgen_cli.system.devices import set_threads

    set_threads()
    from tumorgen_cli.cli import main

    signal.signal(signal.SIGINT, before)
    main.start()


if __name__ == "__main__":
    start()
