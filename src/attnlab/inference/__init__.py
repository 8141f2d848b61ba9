"""A trained model in use."""

from attnlab.process import large_imports

with large_imports(our_process=False):
    from attnlab.inference.explaining import explain
    from attnlab.inference.predictor import Predictions, Predictor
    from attnlab.training.attribution import Explanation

__all__ = ["Explanation", "Predictions", "Predictor", "explain"]
