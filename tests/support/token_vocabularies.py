"""Small vocabularies, one per tokenizer model, made from the texts of token_texts.py; nothing in them is random."""

from collections import Counter
from itertools import pairwise

from token_texts import TEXTS

SPM_SPECIAL = [
    ("<unk>", 2),
    ("<s>", 3),
    ("</s>", 3),
    ("<|control|>", 3),
    ("<|user|>", 4),
    ("<mask>", 3),
    ("<|endoftext|>", 3),
]
BYTE_TOKENS = [(f"<0x{byte:02X}>", 6) for byte in range(256)]
# What every model of which libllama reads only the vocabulary needs.
MODEL = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.block_count": 1,
    "llama.feed_forward_length": 32,
    "llama.attention.head_count": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def printable(raw):
    """Bytes as byte-pair vocabularies write them."""
    same = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in same]
    return "".join(chr(byte) if byte in same else chr(256 + others.index(byte)) for byte in raw)


def trained(symbols, count):
    """The first merges of byte-pair training, ``count`` at most; they cross every border there is."""
    merges = []
    for _ in range(count):
        pairs = Counter(pairwise(symbols))
        pair = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[pair] < 2:
            break
        merges.append(f"{pair[0]} {pair[1]}")
        merged, at = [], 0
        while at < len(symbols):
            if at + 1 < len(symbols) and (symbols[at], symbols[at + 1]) == pair:
                merged.append(symbols[at] + symbols[at + 1])
                at += 2
            else:
                merged.append(symbols[at])
                at += 1
        symbols = merged
    return merges


def byte_pairs(pre, merges):
    """A vocabulary of the model "gpt2" with merges that join letters, digits, spaces and line breaks."""
    special = [("<|control|>", 3), ("<|user|>", 4), ("</s>", 3), ("<mask>", 4), ("", 5)]
    plain = [*(printable([byte]) for byte in range(256)), *(merge.replace(" ", "") for merge in merges)]
    tokens = [*dict.fromkeys(plain), *(text for text, _ in special)]
    kinds = [1] * (len(tokens) - len(special)) + [kind for _, kind in special]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": len(tokens) - 3,
    }


def marked_pairs(pre, merges):
    """The same for text in which spaces are marks and other bytes have tokens of their own."""
    characters = sorted(
        {character for text in TEXTS for character in text.replace(" ", "▁") if character < "\u0500"} | {"▁"}
    )
    plain = [*characters, *(merge.replace(" ", "") for merge in merges)]
    tokens = [*dict.fromkeys(["<pad>", "<eos>", *plain]), *(text for text, _ in BYTE_TOKENS), "<|control|>", "<|user|>"]
    kinds = [
        6 if token.startswith("<0x") else {"<|control|>": 3, "<eos>": 3, "<|user|>": 4}.get(token, 1)
        for token in tokens
    ]
    return {
        "tokenizer.ggml.model": "gemma4" if pre == "gemma4" else "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


def scored(**more):
    """A vocabulary of the model "llama": pieces of up to eight characters of the texts, some across spaces."""
    found = Counter()
    for text in TEXTS:
        text = "▁" + text.replace(" ", "▁")
        found.update(text[at : at + size] for size in range(1, 9) for at in range(len(text) - size + 1))
    pieces = [piece for piece, times in sorted(found.items()) if times > 1 or len(piece) == 1]
    pieces = [piece for piece in pieces if piece not in dict(SPM_SPECIAL) and not {"<", "\0"} & {*piece}][:900]
    scores = [-float(100 * len(piece) // found[piece] % 37) for piece in pieces]  # equal scores, too
    special = [*SPM_SPECIAL, *BYTE_TOKENS]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*(text for text, _ in special), *pieces],
        "tokenizer.ggml.scores": [0.0] * len(special) + scores,
        "tokenizer.ggml.token_type": [*(kind for _, kind in special), *[1] * len(pieces)],
        **more,
    }


def word_pieces(**more):
    """A vocabulary of the model "bert": characters, starts and ends of the words of the texts."""
    found = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    for word in sorted({word for text in TEXTS for word in text.lower().split()}):
        pieces = (word[0], word[:2], word[:3], word[:5])
        found.update(dict.fromkeys([*("▁" + piece for piece in pieces), *word, word[2:4], word[-2:]]))
    tokens = [token for token in found if token and "\0" not in token]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 5 + [1] * (len(tokens) - 5),
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        **more,
    }


def variants(names, merges, marked_merges):
    """Name -> metadata: one vocabulary per pre-tokenizer, and those of the other models with their options."""
    key = "tokenizer.ggml."
    found = {}
    for name in names:
        marked = name in ("gemma4", "granite-embed-multi-311m", "sarvam-moe")
        found[f"gpt2/{name}"] = marked_pairs(name, marked_merges) if marked else byte_pairs(name, merges)
    found["llama"] = scored()
    found["llama/no-prefix"] = scored(**{key + "add_space_prefix": False})
    found["llama/phi-3"] = scored(**{"general.name": "Phi-3 mini"})
    found["bert"] = word_pieces()
    found["bert/cased"] = word_pieces(**{key + "normalizer.lowercase": False})
    found["bert/accents"] = word_pieces(**{key + "normalizer.strip_accents": False})
    return found
