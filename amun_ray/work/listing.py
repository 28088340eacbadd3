"""What a purge has found, as text."""

from collections import Counter
from collections.abc import Sequence

from amun_ray.work.lineage import DELETE, NEEDED, Remnant


def table(remnants: Sequence[Remnant]) -> str:
    """The list as text: what is deleted, with size and why; below it what stays, by kind."""
    gone = [item for item in remnants if item.action != NEEDED]
    size = sum(item.bytes for item in gone)
    lines = [f"{len(gone)} to be deleted, {size:,} B:" if gone else "nothing is left to delete",
             *(f"  {item.room:<14} {item.bytes:>12,} B  {item.name}: {item.why}"
               + ("" if item.action == DELETE else f" ({item.action})") for item in gone)]
    stays: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for item in remnants:
        if item.action == NEEDED:
            kind = item.name.partition("/")[0], item.why
            stays[kind], sizes[kind] = stays[kind] + 1, sizes[kind] + item.bytes
    if stays:
        lines += [f"{stays.total()} stay, needed to judge later requests; --retire deletes those that no later request "
                  "starts from:", *(f"  {count:>4} {kind:<10} {sizes[kind, why]:>12,} B  {why}"
                                    for (kind, why), count in stays.items())]
    return "\n".join(lines)
