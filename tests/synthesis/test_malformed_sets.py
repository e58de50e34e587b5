"""Files of a set that somebody damaged: one clear error each."""

import pytest

from tumorgen_cli.synthesis.logs import drop_lines, open_log, read_log
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT
from tumorgen_cli.synthesis.set_files import (
    read_held_out,
    read_judges,
    read_learned_from,
    read_left_out,
    read_provenance,
)
from tumorgen_cli.system.errors import TumorgenError


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("set.json", f'{{"format": {PAIR_FORMAT}, "learned_from": "r00"}}', read_learned_from),
        ("set.json", f'{{"format": {PAIR_FORMAT}, "learned_from": [1]}}', read_learned_from),
        ("held_out.json", '{"a": 1}', read_held_out),
        ("held_out.json", '"r00"', read_held_out),
        ("rejected.csv", "case\nx,y\n\0\n", read_left_out),
        ("rejected.csv", "host,reason\nx,y\n", read_left_out),
        ("judges.json", "[1]", read_judges),
        ("given_up.jsonl", '[1]\n{"case": "a"}\n', lambda folder: read_log(folder, "given_up")),
        ("given_up.jsonl", '{"case": \n', lambda folder: read_log(folder, "given_up")),
        ("given_up.jsonl", f'{{"case": {"9" * 5000}}}\n', lambda folder: read_log(folder, "given_up")),
        ("provenance.jsonl", f'{{"case": {"9" * 5000}}}\n', read_provenance),
        ("provenance.jsonl", "[" * 100_000 + "\n", read_provenance),
        ("provenance.jsonl", "[1]\nnull\n3\n", read_provenance),
        ("provenance.jsonl", "\udcff\n", read_provenance),
        ("provenance.jsonl", "\udcff\n", lambda folder: open_log(folder, "provenance")),
        ("given_up.jsonl", "{}\n", lambda folder: drop_lines(folder, "given_up", lambda _: False)),
    ],
)
def test_a_malformed_file_of_a_set_is_one_clear_error(tmp_path, name, content, read):
    (tmp_path / name).write_text(content, errors="surrogateescape")
    with pytest.raises(TumorgenError) as caught:
        read(tmp_path)
    assert caught.value.faults
    assert all(name in fault.where for fault in caught.value.faults)
