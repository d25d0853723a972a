"""Write ``tests/golden/vocabularies/unigram.json``: the ids that llama.cpp and the tokenizers package give to texts.

Usage: PYTHONPATH=tests/support python -m checkpoints.make_unigram LIBLLAMA

It needs quantreg, tokenizers==0.23.3, and libllama of the pinned llama.cpp.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from reference_tokens import Reference
from tokenizers import Tokenizer

import quantreg
from checkpoints import GOLDEN
from checkpoints.tokenizers import VOCABULARY, write_tokenizer
from quantreg.checkpoints.vocabulary import vocabulary

TEXTS = (
    "", " ", "the", " the", "the the", "  in  the\tnight ", "Anne is reading there", "ﬁne ①② ½ Ａ",
    "e\u0301te\u0301 é", "so\u00adft", "\u3000the\u3000end", "日本語 the", "the日本日the", "thing, nothing!", "a-b",
    "<s> the </s>", "ZZZ q", "x" * 40, "in" * 20, "the" * 15,
)  # fmt: skip
BYTES = ("the \udcff\udcfe in", "\udce6\udc97 on", "ab\udc80")


def main():
    reference = Reference(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_tokenizer("unigram", folder)
        config = {"vocab_size": VOCABULARY, "type_vocab_size": 1, "model_type": "xlm-roberta"}
        metadata = {f"bert.{key}": 1 for key in ("context_length", "embedding_length", "block_count")}
        metadata |= {f"bert.{key}": 1 for key in ("feed_forward_length", "attention.head_count")}
        metadata |= {"general.architecture": "bert", "bert.attention.layer_norm_epsilon": 1e-5}
        metadata |= {"bert.attention.causal": False, **vocabulary(folder, config, "xlm-roberta")}
        quantreg.write(folder / "v.gguf", metadata, {"token_embd.weight": np.zeros((VOCABULARY, 1), np.float32)})
        read = reference.vocabulary(folder / "v.gguf")
        fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
        golden = {
            "llama.cpp": {text: list(read.encode(text)) for text in (*TEXTS, *BYTES)},
            "tokenizers": {text: fast.encode(text, add_special_tokens=False).ids for text in TEXTS},
        }
    path = GOLDEN.parent / "vocabularies" / "unigram.json"
    path.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
