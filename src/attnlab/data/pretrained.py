"""The folder of a pretrained encoder, local or downloaded from the Hub."""

from functools import cache
from pathlib import Path

from attnlab.errors import UserError, first_line

CONFIG, TOKENIZER, PICKLE = "config.json", "tokenizer.json", "pytorch_model.bin"
FILES = (CONFIG, TOKENIZER, "*.safetensors", "*.safetensors.index.json")


@cache
def pretrained_folder(path: str) -> Path:
    """A local folder as it is, or the cached copy of a name on the Hub; only `FILES` are downloaded.

    Raises:
        UserError: there is no such model, or no network to fetch it.
    """
    if Path(path).is_dir():
        return Path(path)
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        raise UserError(f"model.path={path}: the folder does not exist")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:  # without pickles, which can execute code when they are loaded
        return Path(snapshot_download(path, allow_patterns=list(FILES)))
    except GatedRepoError as error:
        raise UserError(
            f"model.path={path} requires a login: accept its terms on the Hub, then hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(f"model.path={path} is neither a folder here nor a model of the Hub") from error
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE=1 forbids to fetch it" if constants.HF_HUB_OFFLINE else "the Hub can't be reached"
        raise UserError(
            f"model.path={path} is neither a local folder nor in the Hub's cache, and {why}: give the folder of a copy"
        ) from error
    except Exception as error:  # a network and a disk can fail in any way
        raise UserError(f"can't fetch model.path={path}: {first_line(error)}") from error
