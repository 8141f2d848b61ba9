"""Batches in, logits out: plain torch, with no knowledge of Lightning, Hydra or where the batches come from."""
