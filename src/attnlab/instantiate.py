"""The one door from configuration to code: only what is listed here is ever called by a config."""

from typing import Any

import hydra.utils
from hydra.errors import InstantiationException

from attnlab.errors import UserError

# Add your own package here to name its classes in a config. Narrow on purpose: configs also come out of checkpoints that
# others made, and a package listed whole would let them call anything in it.
EXECUTION_WHITELIST = [
    "attnlab.*",
    "lightning.pytorch.callbacks.*",
    "lightning.pytorch.loggers.*",
    "lightning.pytorch.profilers.*",
    "lightning.pytorch.trainer.trainer.Trainer",
    "lightning.pytorch.Trainer",
    "torch.optim.*",
    "torchmetrics.*",
]


def instantiate(config: Any, **arguments: Any) -> Any:
    """Call what `config["_target_"]` names with the config's other entries and `arguments`.

    Raises:
        UserError: the target is not on the whitelist, or refuses its arguments.
    """
    try:
        return hydra.utils.instantiate(config, **arguments, _execution_whitelist_=EXECUTION_WHITELIST)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        reason = str(cause if cause is not None else error).strip().splitlines()[0]
        raise UserError(f"{config.get('_target_')}: {reason}") from error
