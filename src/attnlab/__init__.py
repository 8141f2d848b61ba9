"""attnlab: compose a small text classifier from named parts, train it, and learn whether a part really helped."""

from attnlab.threads import wait_gently

wait_gently()
