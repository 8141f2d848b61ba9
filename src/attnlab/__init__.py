"""attnlab: compose a small text classifier from named parts, train it, and learn whether a part really helped."""

from attnlab.process import hold_memory_together, wait_gently

wait_gently()
hold_memory_together()
