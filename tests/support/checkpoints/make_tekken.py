"""Write ``tests/golden/vocabularies/tekken.json`` with the reference's MistralVocab and with mistral-common.

Usage: PYTHONPATH=tests/support python -m checkpoints.make_tekken GGUF_PY

GGUF_PY is gguf-py of the pinned llama.cpp. It needs mistral-common==1.13.1.
"""

import base64
import json
import sys
import tempfile
from pathlib import Path

from steady import integers

from checkpoints import GOLDEN

TEXTS = (
    "", "a", " the", "The theatre, there!", "in the end 1234 times", "\n\n  then\t", "née Ünïcödé", "日本語 テスト",
    "🙂 the 👩‍👩‍👧", "'s they're THE", "a\r\n\r\nb", "/* the */ x += 1;", "<s>[INST] the [/INST]", "\u00a0the\u2003end",
)  # fmt: skip
PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "[THINK]",
)  # fmt: skip
WORDS = ("th", "he", "the", " t", " th", " the", "in", " in", "er", "re", "there", "en", "end", " e", " end", "ä")


def tekken(version="v11", special=SPECIAL):
    """A small file: the bytes, and words that are made of two tokens before them."""
    tokens = [bytes((byte,)) for byte in range(256)]
    tokens += [word.encode() for word in WORDS]
    while len(tokens) < 320:
        left, right = (tokens[int(i)] for i in integers(f"tekken {len(tokens)}", len(tokens), (2,)))
        if left + right not in tokens and len(left + right) < 9:
            tokens.append(left + right)
    vocab = [{"rank": i, "token_bytes": base64.b64encode(token).decode()} for i, token in enumerate(tokens)]
    vocab = [entry | {"token_str": _text(token)} for entry, token in zip(vocab, tokens, strict=True)]
    config = {"pattern": PATTERN, "num_vocab_tokens": 320, "default_vocab_size": 340, "default_num_special_tokens": 30}
    whole = {"config": config | {"version": version}, "vocab": vocab}
    if special:
        listed = [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(special)]
        whole["special_tokens"] = listed
    return whole


def _text(token):
    try:
        return token.decode()
    except UnicodeDecodeError:
        return None


def main():
    sys.path.insert(0, sys.argv[1])
    from gguf.vocab import MistralVocab

    golden = {}
    for name, file in {"v11": tekken(), "v3": tekken("v3", ())}.items():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "tekken.json").write_text(json.dumps(file))
            vocab = MistralVocab(Path(folder))
        tokens = list(vocab.all_tokens())
        golden[name] = {
            "file": file,
            "tokens": [text.decode() for text, _, _ in tokens],
            "token_type": [int(kind) for _, _, kind in tokens],
            "merges": vocab.extract_vocab_merges_from_model(),
            "ids": {role: getattr(vocab, f"{role}_id") for role in ("bos", "eos", "unk", "pad")},
            "texts": {text: vocab.tokenizer.encode(text, bos=False, eos=False) for text in TEXTS},
        }
    path = GOLDEN.parent / "vocabularies" / "tekken.json"
    path.write_text(
        json.dumps(golden, ensure_ascii=True, separators=(",", ":")).replace('},{"rank', '},\n{"rank') + "\n"
    )


if __name__ == "__main__":
    main()
