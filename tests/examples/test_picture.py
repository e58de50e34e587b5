"""The front page's picture, on a set of two pairs written by hand."""

import numpy as np
from PIL import Image
from support.sets import BOX, SHAPE, ball, scan, write_case, write_set

ORANGE = (228, 87, 46)  # the outline


def test_picture_has_a_row_a_pair_and_outlines_the_mask(example, tmp_path):
    center = tuple((a + b) / 2 for a, b in zip(BOX.start, BOX.stop, strict=True))
    tumor, empty = ball(center, 14.0), np.zeros(SHAPE, bool)
    pairs = []
    for number in range(3):
        write_case(tmp_path / "phantoms" / "healthy", f"h{number}", scan(empty, 1, number), empty)
        pairs.append((f"p{number}", f"h{number}", scan(tumor, 5, number), tumor))
    hosts = tmp_path / "phantoms" / "healthy"
    for path in (hosts / "imagesTr").iterdir():  # hosts lie in one folder
        path.rename(hosts / path.name)
    folder = write_set(tmp_path / "synthetic" / "set", pairs)
    out = tmp_path / "images" / "pairs.png"
    example("picture").main(folder, out, pairs=2)
    picture = np.asarray(Image.open(out).convert("RGB"), int)
    orange = np.abs(picture - ORANGE).sum(axis=2) < 60
    rows, columns = np.nonzero(orange)
    height, width = orange.shape
    assert rows.min() > 0.64 * height
    assert columns.min() < width / 2 < columns.max()
