"""Makes tokens.json: python tests/golden/tokens/make.py path/to/libllama.so

libllama is that of llama.cpp 0c1e57098. The vocabularies are those of tests/support/token_vocabularies.py, the texts
those of token_texts.py. The file holds the merges of the byte-pair vocabularies and, for each vocabulary, the number
of its result; vocabularies with the same tokens share one. A result has, for each text, the tokens without and with
special tokens (null if they are the same); `facts` holds what else the reference says about a vocabulary.
"""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "support"))

import token_vocabularies as vocabularies  # noqa: E402
from reference_tokens import Reference  # noqa: E402
from token_texts import BROKEN, TEXTS  # noqa: E402

import quantreg  # noqa: E402
from quantreg.tokenization.pretokenizers import PRETOKENIZERS  # noqa: E402


def main(library):
    reference = Reference(library)
    sample = "\n".join(TEXTS)
    merges = vocabularies.trained([vocabularies.printable([byte]) for byte in sample.encode()], 600)
    marked = vocabularies.trained([c for c in sample.replace(" ", "▁") if "\0" < c < "\u0500" or c == "▁"], 300)
    # Line breaks only merge with each other, and the first of equal merges counts.
    marked = [*(merge for merge in marked if "\n" not in merge), "\n \n", "\n\n \n", "\n\n \n\n", marked[0]]
    results, of, facts = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        for name, metadata in vocabularies.variants(PRETOKENIZERS, merges, marked).items():
            quantreg.write(path, {**vocabularies.MODEL, **metadata}, {}, force=True)
            vocabulary = reference.vocabulary(path)
            found = []
            for text in (*TEXTS, *BROKEN):
                plain, special = vocabulary.encode(text), vocabulary.encode(text, special=True)
                shown = vocabulary.decode_bytes(special, special=True).hex()
                found.append([plain, None if special == plain else special, shown])
            decoded = [entry.pop() for entry in found]
            if found not in results:
                results.append(found)
            of[name] = results.index(found)
            facts[name] = {**vocabulary.facts(), "decoded": decoded}
            vocabulary.close()
    shared = []
    for name, fact in facts.items():
        decoded = fact.pop("decoded")
        if decoded not in shared:
            shared.append(decoded)
        fact["decoded"] = shared.index(decoded)
        fact["result"] = of[name]
    content = {"merges": merges, "marked": marked, "facts": facts, "decoded": shared, "results": results}
    rows = ",\n".join(
        f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in content.items()
    )
    (HERE / "tokens.json").write_text("{" + rows.replace("]]],[[[", "]]],\n[[[") + "}\n", encoding="utf-8")
    print(len(of), "vocabularies,", len(results), "results,", len(shared), "decoded texts")


if __name__ == "__main__":
    main(sys.argv[1])
