"""Arrow's view types, where this pyarrow can read and cast them: 17 has them and cannot."""

import pyarrow as pa

WORKS = int(pa.__version__.split(".")[0]) > 17
TEXT_VIEWS, BINARY_VIEWS = ([pa.string_view()], [pa.binary_view()]) if WORKS else ([], [])
