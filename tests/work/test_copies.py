"""The search by content: every exact or near copy of a forgotten picture is found, in any file, and nothing else."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from PIL import Image

from amun_ray.base.errors import UserError
from amun_ray.base.status import Status
from amun_ray.data import shards
from amun_ray.data.dataset import Dataset
from amun_ray.work.copies import Forgotten

RNG = np.random.default_rng(0)
ROW, OTHER = 3, 7
RADIUS = 0.5


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def dataset(request):
    return Dataset("random", RNG.integers(0, 256, (20, request.param, 6, 5), np.uint8), np.arange(20) % 2, 15, 2)


@pytest.fixture(scope="module")
def forgotten(dataset):
    return Forgotten(dataset, np.array([1, ROW]), RADIUS)


def near(dataset, row, l2):
    """The picture of a row, float32 in [0, 1], moved by exactly `l2`."""
    picture = dataset.pixels[row].astype(np.float32) / 255
    step = np.where(picture > 0.5, -1.0, 1.0).astype(np.float32)  # stays in [0, 1]
    return picture + l2 * step / np.float32(np.sqrt(step.size))


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(array):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, some=np.zeros(3), more=array)
    return buffer.getvalue()


def parquet(column):
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"number": pa.array(range(len(column))), "picture": column}), buffer)
    return buffer.getvalue().to_pybytes()


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def packed(dataset, row):
    """The picture of a row, nearly, in every form in which a file may hold it."""
    moved, exact = near(dataset, row, 0.4), dataset.pixels[row]
    stack = np.stack([near(dataset, OTHER, 0.1), moved])
    return {"stack.npy": npy(stack), "one.npy": npy(moved), "flat.npy": npy(moved.ravel()),
            "half.npy": npy(stack.astype(np.float16)), "bytes.npy": npy(np.stack([dataset.pixels[OTHER], exact])),
            "255.npy": npy(255 * stack), "last.npy": npy(stack.transpose(0, 2, 3, 1)), "zip.npz": npz(stack),
            "x.safetensors": safetensors.numpy.save({"bias": np.zeros(3, np.float32), "deep.cache": stack}),
            "raw.parquet": parquet(pa.array([np.float32(image).tobytes() for image in stack])),
            "uint8.parquet": parquet(pa.array([dataset.pixels[OTHER].tobytes(), exact.tobytes()])),
            "list.parquet": parquet(pa.array([image.ravel().tolist() for image in stack])),
            "png.parquet": parquet(pa.array([png(dataset.pixels[OTHER]), png(exact)])),
            "struct.parquet": parquet(pa.array([{"bytes": png(exact), "path": "a.png"}])), "one.png": png(exact)}


EXACT = ("bytes.npy", "uint8.parquet", "png.parquet", "struct.parquet", "one.png")
FORMS = ("stack.npy", "one.npy", "flat.npy", "half.npy", "255.npy", "last.npy", "zip.npz", "x.safetensors",
         "raw.parquet", "list.parquet", *EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_a_near_copy_is_found_in_every_form_and_another_picture_in_none(form, dataset, forgotten):
    _, found = forgotten.copies(form, packed(dataset, ROW)[form])
    assert [copy.row for copy in found] == [ROW]
    assert found[0].l2 == pytest.approx(0.0 if form in EXACT else 0.4, abs=3e-3)
    seen, others = forgotten.copies(form, packed(dataset, OTHER)[form])
    assert seen >= 1
    assert others == []


def test_the_radius_is_the_border(dataset, forgotten):
    images = np.stack([near(dataset, ROW, RADIUS - 0.01), near(dataset, ROW, RADIUS + 0.01)])
    _, found = forgotten.copies("x.npy", npy(images))
    assert [copy.place for copy in found] == ["array, picture 0"]


def test_a_picture_nearer_to_a_remaining_one_is_that_one(dataset):
    wide = Forgotten(dataset, np.array([ROW]), 100.0)
    halfway = 0.4 * dataset.pixels[ROW] / 255 + 0.6 * dataset.pixels[OTHER] / 255
    assert wide.copies("x.npy", npy(halfway))[1] == []
    assert len(wide.copies("x.npy", npy(0.6 * dataset.pixels[ROW] / 255 + 0.4 * dataset.pixels[OTHER] / 255))[1]) == 1


def test_a_picture_that_also_remains_is_no_copy(dataset):
    pixels = dataset.pixels.copy()
    pixels[OTHER] = pixels[ROW]
    twins = Forgotten(Dataset("twins", pixels, dataset.labels, 15, 2), np.array([ROW]), RADIUS)
    assert twins.copies("x.npy", npy(pixels[ROW]))[1] == []


def shard(dataset, index, images, l2):
    count = len(index)
    rows = {"index": np.array(index), "image": images, "true_label": np.zeros(count, np.int64),
            "label": np.ones(count, np.int64), "eps": np.full(count, 0.5, np.float32), "l2": np.float32(l2),
            "steps": np.ones(count, np.int32), "status": np.full(count, Status.FLIPPED.value, np.int8)}
    return shards.encode(rows, metadata={"dataset": dataset.digest})


def test_a_shard_is_believed_only_as_far_as_its_pictures_bear_it_out(dataset):
    wide = Forgotten(dataset, np.array([ROW]), 100.0)
    toward = (0.6 * dataset.pixels[ROW] / 255 + 0.4 * dataset.pixels[OTHER] / 255).astype(np.float32)[None]
    distance = [np.linalg.norm(toward[0] - dataset.pixels[OTHER] / 255)]
    assert wide.copies("a.parquet", shard(dataset, [OTHER], toward, distance))[1] == []  # it is OTHER's own
    lying = wide.copies("a.parquet", shard(dataset, [OTHER], toward, [0.1]))[1]
    assert [copy.row for copy in lying] == [ROW]


@pytest.mark.parametrize("name", ["a.parquet", "a.npy", "a.npz", "a.safetensors", "a.png"])
def test_what_cannot_be_read_is_said(name, forgotten):
    with pytest.raises(UserError, match=f"{name}: cannot be searched"):
        forgotten.copies(name, b"no such thing")
