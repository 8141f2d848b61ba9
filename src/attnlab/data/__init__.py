"""Text in, batches out: sources, tokenizers, the token cache and length-bucketed batches."""
