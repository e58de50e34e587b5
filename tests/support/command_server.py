"""Runs commands in forks of a process that has imported the libraries: most of a short command is imports.

Requests come by stdin, one JSON object a line: `words` of the command line, its working `folder`, the FIFO for its
`output`, and `most_bytes` of a file or null. Answers are lines, too: the number of the process, then its exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

MODULES = (
    "accelerate",
    "matplotlib.figure",
    "nnunetv2.inference.predict_from_raw_data",
    "sklearn.linear_model",
    "tumorgen_cli.cli.main",
    "tumorgen_cli.judge.model",
    "tumorgen_cli.methods.copypaste",
    "tumorgen_cli.methods.tumorgen.method",
    "tumorgen_cli.pipeline.evaluate",
    "tumorgen_cli.pipeline.filter",
    "tumorgen_cli.pipeline.merge",
    "tumorgen_cli.pipeline.plan",
    "tumorgen_cli.pipeline.preprocess",
    "tumorgen_cli.pipeline.synthesize",
    "tumorgen_cli.pipeline.train",
    "tumorgen_cli.studies.reader_study",
    "tumorgen_cli.training.loop",
)


def serve() -> dict[str, Any] | None:
    """Fork for each request and wait for the fork; return the request in the fork, and None when there are no more."""
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            request: dict[str, Any] = json.loads(line)
            return request
        sys.stdout.write(f"{process}\n")
        sys.stdout.flush()
        _, status = os.waitpid(process, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    return None


def main() -> None:
    for name in MODULES:
        importlib.import_module(name)
    request = serve()
    if request is None:
        return
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what runs in the background ignore it
    os.chdir(request["folder"])
    output = os.open(request["output"], os.O_WRONLY)  # a limit of file sizes does not hold for a FIFO
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - the command's own
    for number, name in ((1, "stdout"), (2, "stderr")):  # new streams: a FIFO cannot be sought in
        os.dup2(output, number)
        setattr(sys, name, os.fdopen(number, "w", buffering=1, closefd=False))
    os.close(output)
    if most := request["most_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sys.argv = ["tumorgen", *request["words"]]
    from tumorgen_cli.cli.main import start

    start()


if __name__ == "__main__":
    main()
