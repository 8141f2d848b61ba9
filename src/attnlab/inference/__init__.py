"""A trained model in use."""

from attnlab.inference.predictor import Predictions, Predictor

__all__ = ["Predictions", "Predictor"]
