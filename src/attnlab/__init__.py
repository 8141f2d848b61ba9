"""attnlab: compose a small text classifier from named parts, train it, and learn whether a part really helped."""
