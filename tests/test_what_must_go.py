"""Requests as a user writes them, through the command: what a dry run says, and one line for each mistake."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from amun_ray.sweep import main

CONFIG = """
name: mine
data: {name: parquet, train: train.parquet, test: test.parquet}
model: {name: small_cnn, options: {width: 4}}
training: {epochs: 1, lr: 0.1}
forget: {classes: [cat]}
methods: {amun: }
"""
NAMES, PERSONS = ["cat", "dog", "owl"], ["ann", "bob", "cleo", "dan"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """24 training images of three classes and four persons in turn; the last but one is nearly the first."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
    pixels[22] = np.clip(pixels[0] * 1.02, 0, 255)
    for part, rows in (("train", range(24)), ("test", range(24, 30))):
        cells = []
        for row in rows:
            file = io.BytesIO()
            Image.fromarray(pixels[row]).save(file, "PNG")
            cells.append(file.getvalue())
        pq.write_table(pa.table({"image": cells, "label": [NAMES[row % 3] for row in rows],
                                 "person": [PERSONS[row % 4] for row in rows], "age": [row % 4 for row in rows]}),
                       f"{part}.parquet")
    (tmp_path / "mine.yaml").write_text(CONFIG)
    (tmp_path / "people.txt").write_text("bob\nann\n")
    (tmp_path / "wrong.txt").write_text("bob\nanna\n")
    return tmp_path


def asked(capsys, forget):
    """(exit code, output, errors) of a dry run."""
    code = main(["--config", "mine.yaml", "--dry-run", "--set", f"forget={forget}"])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err.splitlines()


@pytest.mark.parametrize(("forget", "lines"), [
    ("{classes: [dog]}", ["  forget      8 rows of class dog (1): 1, 4, 7, ... 22", "  by class    dog (1): 8 of 8"]),
    ("{classes: [1]}", ["  forget      8 rows of class dog (1): 1, 4, 7, ... 22", "  by class    dog (1): 8 of 8"]),
    ("{column: person, values: [bob]}", ["  forget      6 rows of person bob: 1, 5, 9, ... 21",
                                         "  by class    cat (0): 2 of 8, dog (1): 2 of 8, owl (2): 2 of 8"]),
    ("{column: person, values: people.txt}", ["  forget      12 rows of person bob, ann: 0, 1, 4, ... 21",
                                              "  by class    cat (0): 4 of 8, dog (1): 4 of 8, owl (2): 4 of 8"]),
    ("{column: age, values: [2]}", ["  forget      6 rows of age 2: 2, 6, 10, ... 22",
                                    "  by class    cat (0): 2 of 8, dog (1): 2 of 8, owl (2): 2 of 8"]),
])
def test_a_dry_run_shows_what_is_forgotten(folder, capsys, forget, lines):
    code, out, _ = asked(capsys, forget)
    assert code == 0
    assert [line for line in out if line.startswith(("  forget", "  by class"))] == lines
    assert sum(line.startswith("  held out    set 0: ") for line in out) == 1


def test_a_near_copy_is_named(folder, capsys):
    _, out, _ = asked(capsys, "{column: person, values: [ann]}")
    (warning,) = [line for line in out if line.startswith("  warning: ")]
    assert "1 of the remaining training images nearly show what is to be forgotten" in warning
    assert "(forgotten row = remaining row: 0 = 22)" in warning
    _, out, _ = asked(capsys, "{column: person, values: [bob]}")
    assert not any("nearly" in line for line in out)


@pytest.mark.parametrize(("forget", "line"), [
    ("{classes: [cta]}", "forget.classes: no class is called 'cta'; did you mean 'cat'? Classes: cat, dog, owl"),
    ("{classes: [3]}", "forget.classes: 3 is no class; they are 0..2: cat, dog, owl"),
    ("{classes: [0, cat]}", "forget.classes: class cat (0) is named twice"),
    ("{classes: [cat, dog, owl]}", "the request is for all 24 training images; train a new model on others"),
    ("{classes: [cat, dog]}", "held-out sets that look like the request need 1 x 2 other groups (class), but "),
    ("{classes: cat}", "--set: forget.classes: must be a list of names and numbers, but got 'cat'"),
    ("{column: persons, values: [bob]}", "train.parquet: no columns called 'persons'; columns: image, label, "),
    ("{column: person, values: [anna]}", "forget.values: column 'person' does not hold 'anna'; the nearest: 'ann'"),
    ("{column: person, values: [1]}", "forget.values: 1 is a number, but column 'person' holds texts: 'ann', "),
    ("{column: age, values: ['1']}", "forget.values: '1' is a text, but column 'age' holds integers: 0, 1, 2, ...; "),
    ("{column: age, values: [9]}", "forget.values: column 'age' does not hold 9; the nearest: 1, 2, 3"),
    ("{column: person, values: gone.txt}", "gone.txt: cannot be read: "),
    ("{column: person, values: wrong.txt}", "wrong.txt: line 2: column 'person' does not hold 'anna'; "),
    ("{column: person}", "--set: forget: column and values belong together, but got column alone"),
    ("{column: image, values: [a]}", "train.parquet: value: integers, texts or truth values are needed, found a "
     "column of binary"),
    ("{pattern: 'a/*'}", "forget.pattern: the images of parquet are no files of their own; use indices, "),
    ("{files: people.txt}", "forget.files: the images of parquet are no files of their own; use indices, "),
    ("{classes: [cat], fraction: 0.1}", "--set: forget: give one of fraction, folds, indices, classes, "),
    ("{clases: [cat]}", "--set: forget.clases: unknown key; did you mean 'classes'?"),
])
def test_a_mistake_is_one_line_and_exit_code_2(folder, capsys, forget, line):
    code, out, errors = asked(capsys, forget)
    assert code == 2
    assert out == []
    assert len([error for error in errors if error.startswith(f"error: {line}")]) == len(errors) == 1, errors
    assert not (folder / "amun_output").exists()
