"""One run: data and model joined, trained, checkpointed, tested and written down."""
