"""Every remedy in the source is in a test, which makes the fault and follows the remedy."""

from __future__ import annotations

import ast
from pathlib import Path

from support.remedies import FIELD, printed_remedies

TESTS = Path(__file__).parent
#: a test must hold so much of a remedy, from the beginning of its longest part without a field
_LETTERS = 34
#: remedies that are names alone ("did you mean ...?"), or that no one sees, as the error is caught
_NO_TEXT = {"", FIELD}


def texts_of_tests() -> str:
    """All texts in the tests but this one, one after the other."""
    files = [path for path in TESTS.rglob("*.py") if path != Path(__file__)]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\0".join(node.value for node in nodes if isinstance(node.value, str))


def beginning(remedy: str) -> str:
    return max(remedy.split(FIELD), key=len).strip()[:_LETTERS].rstrip()


def test_every_remedy_is_in_a_test():
    """For a new one, write a test that makes the fault, reads the remedy and follows it.

    Files of the name `test_remedies.py`, and others that end in `_remedies.py`, have tables of such tests.
    """
    found, texts = printed_remedies(), texts_of_tests()
    readable = [each for each in sorted(found) if each.strip() not in _NO_TEXT]
    told = [
        f"{beginning(remedy)!r} of {remedy!r}, {min(found[remedy])}"
        for remedy in readable
        if beginning(remedy) not in texts
    ]
    assert not told, "\n".join(["remedies that no test holds:", *told])
    seen = {place for remedy in readable for place in found[remedy]}
    hidden = sorted(set().union(*found.values()) - seen)
    assert not hidden, f"faults whose remedy the scan cannot read (support/remedies.py): {hidden}"
    assert len(seen) > 250
