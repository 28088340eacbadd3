"""`search.together: auto`: decided once, by the first cluster, and kept in the store."""

import pytest
from searching import sweep, without_ray

from amun_ray.work.width import with_width

SEVERAL = {"finetune": None, "random_label": None}  # three methods and accesses


@pytest.mark.parametrize(("workers", "together"), [(1, 1), (2, 1), (3, 1), (4, 2), (64, 22)])
def test_the_first_cluster_decides_and_the_store_keeps_it(workers, together, tmp_path, capsys):
    auto = without_ray(sweep({"together": "auto"}, SEVERAL), tmp_path)
    settled = with_width(auto, workers)
    assert settled.sweep.search.width == together
    assert with_width(auto, 1000).sweep == settled.sweep
    assert capsys.readouterr().out == 2 * (
        f"search.together: {together} trials of a method at a time, for the {workers} workers of the first start\n")
    others = without_ray(sweep({"together": "auto"}, {"finetune": None}), tmp_path)
    assert with_width(others, 7).sweep.search.width == 7


def test_a_number_is_left_as_it_is(tmp_path, capsys):
    given = without_ray(sweep({"together": 5}), tmp_path)
    assert with_width(given, 64) is given
    assert not [*tmp_path.rglob("widths")]
    assert capsys.readouterr().out == ""
