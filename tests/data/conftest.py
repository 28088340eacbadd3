"""Small parquet files with known images, made on the spot."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def png():
    """Encode pixels (H, W) or (H, W, 3) as a PNG file; lossless, so that tests can compare what comes back."""

    def png(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        return buffer.getvalue()

    return png


@pytest.fixture
def write(tmp_path):
    """Write a parquet file of encoded images and labels; its path."""

    def write(name, images, labels, *, struct=True, row_group=None, **names):
        cells = [{"bytes": image, "path": f"{row}.png"} for row, image in enumerate(images)] if struct else images
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
        table = pa.table({names.get("image", "image"): pa.array(cells, kind), names.get("label", "label"): labels})
        path = tmp_path / name
        pq.write_table(table, path, row_group_size=row_group)
        return path

    return write


@pytest.fixture
def colours():
    """(8, 5, 6, 3) uint8: random RGB images, 5 rows of 6 pixels."""
    return np.random.default_rng(0).integers(0, 256, (8, 5, 6, 3), np.uint8)


@pytest.fixture
def pair(write, png, colours):
    """A training file of 6 images and a test file of 2, with labels 0, 1, 2."""
    return {"train": write("train.parquet", [png(image) for image in colours[:6]], [0, 1, 2, 0, 1, 2]),
            "test": write("test.parquet", [png(image) for image in colours[6:]], [2, 0])}
