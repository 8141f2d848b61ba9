"""Sources of documents: a source is a dataclass with a `load()`, and each file in `conf/data` configures one."""

from attnlab.data.corpus import SPLITS, UNLABELLED, Corpus, Split
from attnlab.data.sources.base import Source, with_absolute_paths
from attnlab.data.sources.files import Files, Folders
from attnlab.data.sources.headlines import Headlines
from attnlab.data.sources.hub import Hub

__all__ = [
    "SPLITS",
    "UNLABELLED",
    "Corpus",
    "Files",
    "Folders",
    "Headlines",
    "Hub",
    "Source",
    "Split",
    "with_absolute_paths",
]
