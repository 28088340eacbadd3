"""What a purge has found, as text."""

from collections import Counter
from collections.abc import Sequence

from amun_ray.work.lineage import DELETE, NEEDED, Found


def table(found: Sequence[Found]) -> str:
    """The list as text: what is deleted, with size and why; below it what stays, by kind."""
    gone = [one for one in found if one.action != NEEDED]
    head = f"{len(gone)} to be deleted, {sum(one.bytes for one in gone):,} B:" if gone else "nothing is left to delete"
    lines = [head,
             *(f"  {one.room:<14} {one.bytes:>12,} B  {one.name}: {one.why}"
               + ("" if one.action == DELETE else f" ({one.action})") for one in gone)]
    stays: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for one in found:
        if one.action == NEEDED:
            kind = one.name.partition("/")[0], one.why
            stays[kind], sizes[kind] = stays[kind] + 1, sizes[kind] + one.bytes
    if stays:
        lines += [f"{stays.total()} stay, needed to judge later requests; --retire deletes those that no later request "
                  "starts from:", *(f"  {count:>4} {kind:<10} {sizes[kind, why]:>12,} B  {why}"
                                    for (kind, why), count in stays.items())]
    return "\n".join(lines)
