"""The anchor of a ledger: a file that remembers the last entry that was written from this machine.

A chain that lost its last entries, or was made anew from its beginning, is sound in itself: only the anchor shows it.
It exists before the first entry, so its absence is noticed. With AMUN_STORE_KEY in the environment it has an
HMAC-SHA256 (RFC 2104), as units of the store have (see `storage.seal`). It cannot show that somebody restored an
earlier pair of ledger and anchor.
"""

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from amun_ray.base.errors import Damaged
from amun_ray.base.files import write_whole
from amun_ray.ledger.entries import START
from amun_ray.storage import seal

CURE = "`--verify --trust DIGEST` writes it anew, with a digest that you kept from an earlier --verify or a proof"


@dataclass(frozen=True)
class Anchor:
    """The file at `path`: number of an entry (-1 for none yet), its digest, the signature."""

    path: Path

    def read(self) -> tuple[int, str] | None:
        """The number and digest of the entry; None if there is no file.

        Raises:
            Damaged: the file is no anchor, or not signed with the key.
        """
        try:
            number, digest, *signed = self.path.read_text().split()
            noted = int(number), digest
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Damaged(f"{self.path}: cannot be read, or is damaged; {CURE}") from error
        if seal.key() is not None and not hmac.compare_digest("".join(signed), _signature(*noted)):
            raise Damaged(f"{self.path}: not signed with this {seal.KEY}; if the key is new, {CURE}")
        return noted

    def begin(self) -> None:
        """Write the anchor of a ledger without entries, unless there is one; OSError where that fails."""
        if not self.path.exists():
            self.write(-1, START)

    def write(self, number: int, digest: str) -> None:
        """Remember an entry; OSError where that fails."""
        write_whole(self.path, " ".join([str(number), digest, _signature(number, digest), "\n"]).encode())

    def missing(self, ledger: str) -> NoReturn:
        """Raise Damaged: there must be a file."""
        raise Damaged(f"{self.path}: is gone; only this file shows whether entries were cut off the end of {ledger}. "
                      f"If the ledger was moved, bring this file, too; else {CURE}")


def _signature(number: int, digest: str) -> str:
    """HMAC-SHA256 (hex); empty where there is no key."""
    key = seal.key()
    return "" if key is None else hmac.new(key, f"amun_ray ledger {number} {digest}".encode(),
                                           hashlib.sha256).hexdigest()
