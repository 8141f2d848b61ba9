"""Models: from a batch to logits, in plain torch without Lightning or Hydra."""
