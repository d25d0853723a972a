"""A target of fuzz.py: published folders, one file of which is damaged."""

import json

import checkpoints
from mutations import damage, damage_json

import quantreg
from quantreg import QuantregError

__all__ = ["Folders"]

NAMES = (
    "llama", "llama-3", "mixtral", "qwen2-yarn", "qwen3", "phi3-long", "gemma3", "gpt-oss", "gpt2", "falcon-40b",
    "stablelm-12b", "granite", "bert", "nomic-bert",
)  # fmt: skip
CARD = "---\nlicense: mit\ntags: [a, b]\nlanguage:\n- en\n- de\nbase_model: some/model\n---\n# Model\n"


class Folders:
    """Plans the conversion of a folder whose config.json, tokenizer, index or model card is damaged."""

    def __init__(self, folder):
        self.folders = []
        for name in NAMES:
            golden, _ = checkpoints.load(name)
            checkpoints.write_folder(name, golden, folder / name)
            (folder / name / "README.md").write_text(CARD)
            (folder / name / "generation_config.json").write_text(
                '{"temperature": 0.7, "top_k": 20, "eos_token_id": [2]}'
            )
            files = [p for p in sorted((folder / name).iterdir()) if p.is_file() and p.suffix != ".safetensors"]
            self.folders.append((folder / name, [(path, path.read_bytes()) for path in files]))

    def __call__(self, random):
        folder, files = random.choice(self.folders)
        config = folder / "config.json"
        path, before = next(f for f in files if f[0] == config) if random.randrange(2) else random.choice(files)
        if path.suffix == ".json" and random.randrange(5):
            path.write_bytes(damage_json(random, json.loads(before)))
        else:
            path.write_bytes(damage(random, before))
        try:
            quantreg.plan(folder, "F16")
        except QuantregError:
            return False
        finally:
            path.write_bytes(before)
        return True
