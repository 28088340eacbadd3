"""Whatever is damaged in a finished sweep: the same command names it, rebuilds it, and gives the same results.

The sweep signs its store. Its key must be in no file that it leaves, of the sweep or of Ray. One sweep goes over all
kinds of files, three more over every kind of damage to each, and a fifth over what is no damage.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sweeping import CONFIG, Sweep, finished, numbers, uri

from amun_ray.storage import seal
from amun_ray.storage.store import VOUCHER
from amun_ray.tracking import load_model

pytestmark = pytest.mark.skipif("AMUN_ENDURANCE" not in os.environ, reason="starts five sweeps: AMUN_ENDURANCE=1")
KEY = "6b1f0e2d-no-one-may-read-this"
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": lambda content: content[:len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[
        len(content) // 2 + 1:],
    "cut": lambda content: content[:-7], "emptied": lambda content: b"", "removed": lambda content: None}


@pytest.fixture
def signed(undisturbed) -> Iterator[Path]:
    """A copy of a finished sweep's output, as a sweep with a key leaves it. Its path is short: Ray makes sockets beside
    it."""
    folder = Path(tempfile.mkdtemp(prefix="amun"))
    output = Path(shutil.copytree(undisturbed[1], folder / "out"))
    for path in (output / "store").rglob("unit.json"):
        said = seal.open_(path.read_bytes(), None)
        path.write_bytes(seal.close(said, KEY.encode()))
        if said["kind"] == "adversarial_sets":  # whose shards each have a voucher, since workers write them
            for name, checksum in said["files"].items():
                voucher = said | {"result": None, "files": {name: checksum}}
                (path.parent / (name + VOUCHER)).write_bytes(seal.close(voucher, KEY.encode()))
    yield output
    shutil.rmtree(folder)


def sweep(output: Path) -> Sweep:
    return Sweep("--config", CONFIG, "--output", output, AMUN_STORE_KEY=KEY,
                 RAY_TMPDIR=str(output.parent / "ray")).finish()


def units(output: Path, kind: str, name: str = "") -> list[Path]:
    """The folders of the units of a kind; of the models those whose name begins so."""
    found = sorted((output / "store" / kind).iterdir())
    said = {folder: json.loads((folder / "unit.json").read_text()) for folder in found}
    assert all("hmac" in content["seal"] for content in said.values())
    return [folder for folder in found if (said[folder]["result"].get("name") or "").startswith(name)]


def targets(output: Path) -> list[Path]:
    """One file of every kind, hardly two of one unit."""
    (original,), (table,) = units(output, "models", "original"), units(output, "tables")
    first, second, third = units(output, "models", "retrained")
    reference, trials = units(output, "models", "reference")[0], units(output, "trials")
    unlearned, sets = units(output, "unlearned"), units(output, "adversarial_sets")
    return [original / "logits.npy", original / "weights.safetensors", first / "logits.npy",
            second / "weights.safetensors", third / "unit.json", reference / "logits.npy", trials[0] / "unit.json",
            trials[1] / "weights-0.safetensors", unlearned[0] / "weights.safetensors", unlearned[1] / "logits.npy",
            unlearned[2] / "unit.json", sets[0] / "shard-00001.parquet", sets[1] / "unit.json", table / "unit.json"]


def swapped(output: Path) -> list[Path]:
    """Files that are sound, each in the place of another."""
    references, unlearned = units(output, "models", "reference"), units(output, "unlearned")
    adversaries = units(output, "adversarial_sets")[2]
    pairs = [(references[2] / "logits.npy", references[3] / "logits.npy"),
             (unlearned[3] / "logits.npy", unlearned[4] / "logits.npy"),
             (unlearned[5] / "weights.safetensors", unlearned[6] / "weights.safetensors"),
             (unlearned[7] / "unit.json", unlearned[8] / "unit.json"),
             (adversaries / "shard-00000.parquet", adversaries / "shard-00001.parquet")]
    for target, source in pairs:
        shutil.copyfile(source, target)
    return [target for target, _ in pairs]


def forged(output: Path) -> Path:
    """A trial that claims to be perfect, by someone without the key; its checksums are valid."""
    path = units(output, "trials")[2] / "unit.json"
    said = json.loads(path.read_text())
    del said["seal"]
    said["result"]["average_gap"] = [0.0 for _ in said["result"]["average_gap"]]
    path.write_bytes(seal.close(said, b"a guess"))
    return path


def content(output: Path) -> dict[str, bytes]:
    """What the store holds, but for unit.json, which has the seconds."""
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted((output / "store").rglob("*"))
            if path.is_file() and path.name != "unit.json"}


@pytest.mark.parametrize("turn", range(len(DAMAGES)), ids=lambda turn: f"turn {turn}")
def test_whatever_is_damaged_is_named_and_made_again_and_the_results_are_the_same(undisturbed, signed, turn):
    """In four turns every kind of file meets every kind of damage."""
    before, files, results = content(signed), finished(signed).keys(), (signed / "results.json").read_bytes()
    damaged, others = targets(signed), [*swapped(signed), forged(signed)] if turn == 0 else []
    for number, path in enumerate(damaged):
        damages = [*DAMAGES.values()][:3 if "adversarial_sets" in path.parts and path.name == "unit.json" else 4]
        changed = damages[(number + turn) % len(damages)](path.read_bytes())
        path.unlink() if changed is None else path.write_bytes(changed)
    damaged += others
    again = sweep(signed)
    for path in damaged:
        lines = [line for line in again.lines if line.startswith(f"  {path}: ") and line.endswith("; it is made again")]
        assert len(lines) == 1, f"{path}\n{again.text}"
    assert sum("; it is made again" in line for line in again.lines) == len(damaged), again.text
    assert ("not signed with this AMUN_STORE_KEY" in again.text) == (turn == 0)
    assert (signed / "results.json").read_bytes() == results
    assert content(signed) == before
    assert numbers(signed) == numbers(undisturbed[1])
    assert finished(signed).keys() == files
    tell_nobody(signed.parent)


def test_an_adversarial_set_without_its_unit_json_is_finished_in_silence(undisturbed, signed):
    """All its shards are there: a kill leaves a set like that, which is no damage."""
    before, said = content(signed), units(signed, "adversarial_sets")[1] / "unit.json"
    said.unlink()
    again = sweep(signed)
    assert "made again" not in again.text
    assert said.exists()
    assert content(signed) == before
    assert numbers(signed) == numbers(undisturbed[1])


def tell_nobody(folder: Path) -> None:
    """The key is in no file of the sweep or of Ray."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"results.json", "mlflow.db", "raylet.out"} <= {path.name for path in files}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_damaged_copy_in_mlflow_does_not_load(signed):
    source = "models:/small-amun-retain@best"
    assert load_model(source, uri=uri(signed))
    for path in (signed / "mlartifacts").rglob("weights.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 0x40
        path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{source}: weights.safetensors: damaged, or of another model"):
        load_model(source, uri=uri(signed))
