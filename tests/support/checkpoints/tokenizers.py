"""Small tokenizers of each kind, written byte by byte: what is needed to convert a folder, not to read texts."""

import base64
import json
import string
import struct
import zlib

__all__ = ["SIZE", "VOCABULARY", "write_tokenizer"]

SIZE = 93  # tokens; the models have embeddings for a few more, which a file gets as unused tokens
VOCABULARY = 96

_WORDS, _DIGITS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{N}"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
REGEXES = {"qwen2": f"{_WORDS}|{_DIGITS}|{_REST}", "llama-bpe": f"{_WORDS}|{_DIGITS}{{1,3}}|{_REST}"}
REGEXES["glm4"] = REGEXES["llama-bpe"]
SPECIAL = {"glm4": ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|user|>", "<|observation|>"]}
# What SentencePiece 0.2 makes of rules for "ﬁ", "①", "Ａ", "½", "e\u0301", a soft hyphen, and two spaces.
CHARSMAP = zlib.decompress(
    base64.b64decode(
        "eNol03mwDlQYB+D3u/ijacyY5jKEJkUqWxeJlGSLVMhShLJEl0G2UsR3uZUtdSNbylIqW/bc7LpFzI0Qyr41mJE1spWer87Mc37vzHvOzJk5"
        "50TBiLgz4pbCEYmIZH7xtMgqFFFEvUAayZyRaaFMzjAVkMmCaZF8NGJ+WPtWhK3JmaZb5W02FCWdNXrFZAmKU5LbKU0pVuemxR2yzP9HiLu5"
        "i3KUpTz3cB/3UoH7qURFqlCZDB6gGlV5kOo8RA1qUZPaPIyjxyM8Rh0epy71qUdDGvAEjWhCY5ryJE/zFM14hhY0pyXP0ppWPEcb2vI8L9CO"
        "DrTnRTrSiZfoQmdepivd6UYmr9CTHvRKrXEnfWRv+vIq/enHQAbwOq/xBoMYzJu4lhjCMIaSlbpkRjCct8nmXd5hFCMZw2jeYyzvM44cPmA8"
        "H/IRE5jERKYwmY+ZyidMYzqfMpMZfMYsZvM5X/IFc/iKecxlQaTeXsRCvmYxi1jKEpazjBV8w7fksoqVqXeZenusYy0bWE8e3/ED37OJjWzm"
        "x1QvOxFb5E/ks42tbOdndrKDXfzCHnbzG7+yj70cYD+HOMgRDnOMo/zOcU5wNj0Rp+TJVC8/EcemJeIP9elUjzOc5xwXucAl/uQvLnOVK1zn"
        "Gn9zg5v8E/99vozIOJqVXdVX6JYZeXPiX7nHlEM="
    )
)
LETTERS = string.ascii_letters + string.digits


def write_tokenizer(kind, folder):
    """Write the files of a tokenizer: "spm", "wordpiece", or the name of a BPE pre-tokenizer in the pinned list."""
    {"spm": _sentencepiece, "wordpiece": _wordpiece, "gemma4": _plain_pairs, "unigram": _unigram}.get(
        kind, lambda to: _bpe(kind, to)
    )(folder)


def _dump(folder, name, what):
    (folder / name).write_text(json.dumps(what, ensure_ascii=False, indent=1), encoding="utf-8")


def _added(id_, text):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": text, **flags, "special": True}


def _bpe(pre, folder):
    special = SPECIAL.get(pre, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    pairs = [f"Ġ{letter}" for letter in LETTERS[: SIZE - len(LETTERS) - 1 - len(special)]]
    vocabulary = {token: i for i, token in enumerate([*LETTERS, "Ġ", *pairs])}
    added = [_added(len(vocabulary) + i, text) for i, text in enumerate(special)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if pre == "gpt-2":
        splits = {**level, "use_regex": True}
    else:
        split = {"type": "Split", "pattern": {"Regex": REGEXES[pre]}, "behavior": "Isolated", "invert": False}
        splits = {"type": "Sequence", "pretokenizers": [split, {**level, "use_regex": False}]}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "byte_fallback": False}
    model |= {
        "ignore_merges": pre in ("llama-bpe", "glm4"),
        "vocab": vocabulary,
        "merges": [["Ġ", pair[1]] for pair in pairs],
    }
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None}
    whole |= {"pre_tokenizer": splits, "post_processor": None, "decoder": level, "model": model}
    _dump(folder, "tokenizer.json", whole)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": special[-1], "pad_token": special[0]}
    if pre == "glm4":
        config["eos_token"] = special[0]
    _dump(folder, "tokenizer_config.json", config)


def _plain_pairs(folder):
    """Byte pairs over plain text, in which "▁" is a space: as many tokens as there are embeddings."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    words = [*special, "<0x0A>", "▁", *LETTERS, "<|channel>"]
    pairs = [f"▁{letter}" for letter in LETTERS[: VOCABULARY - len(words)]]
    vocabulary = {word: i for i, word in enumerate([*words, *pairs])}
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "byte_fallback": True, "ignore_merges": False}
    model |= {"fuse_unk": True, "vocab": vocabulary, "merges": [["▁", pair[1]] for pair in pairs]}
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    steps = [{**mark, "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    whole = {"version": "1.0", "truncation": None, "padding": None, "normalizer": mark, "pre_tokenizer": split}
    whole |= {"added_tokens": [_added(vocabulary[text], text) for text in (*special, "<|channel>")]}
    whole |= {"post_processor": None, "decoder": {"type": "Sequence", "decoders": steps}, "model": model}
    _dump(folder, "tokenizer.json", whole)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>"}
    _dump(folder, "tokenizer_config.json", config | {"unk_token": "<unk>", "pad_token": "<pad>"})


def _unigram(folder):
    """As the files of XLM-RoBERTa: a piece of each letter, some of two, and a table that normalizes texts."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = ["▁", *LETTERS[:52], "é", "▁t", "▁th", "th", "the", "▁the", "in", "ing", "er", "▁a", "re", "on", "at"]
    words += [f"▁{letter}" for letter in LETTERS[26:52]]
    words = words[: SIZE - len(special) - 1]
    vocabulary = [[text, 0.0] for text in special]
    vocabulary += [[word, -2.0 - i / 8 - 3.0 * (len(word.strip("▁")) < 2)] for i, word in enumerate(words)]
    vocabulary.append(["<mask>", 0.0])
    around = [{"SpecialToken": {"id": text, "type_id": 0}} for text in ("<s>", "</s>")]
    around.insert(1, {"Sequence": {"id": "A", "type_id": 0}})
    ids = {text: {"id": text, "ids": [special.index(text)], "tokens": [text]} for text in ("<s>", "</s>")}
    marks = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    added = [*enumerate(special), (SIZE - 1, "<mask>")]
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [_added(*one) for one in added]}
    whole |= {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(CHARSMAP).decode()}}
    whole |= {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, marks]}}
    whole |= {"post_processor": {"type": "TemplateProcessing", "single": around, "pair": around, "special_tokens": ids}}
    whole |= {"decoder": marks, "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": False}}
    _dump(folder, "tokenizer.json", whole)
    roles = zip(("bos", "pad", "eos", "unk", "mask"), (*special, "<mask>"), strict=True)
    config = {"tokenizer_class": "XLMRobertaTokenizer", "clean_up_tokenization_spaces": True}
    config |= {"sep_token": "</s>", "cls_token": "<s>"}
    _dump(folder, "tokenizer_config.json", config | {f"{role}_token": text for role, text in roles})


def _wordpiece(folder):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *LETTERS[:40], *(f"##{letter}" for letter in LETTERS)][:SIZE]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    lower = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
    lower |= {"strip_accents": None, "lowercase": True}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    model |= {"max_input_chars_per_word": 100, "vocab": {word: i for i, word in enumerate(words)}}
    around = [{"SpecialToken": {"id": text, "type_id": 0}} for text in ("[CLS]", "[SEP]")]
    around.insert(1, {"Sequence": {"id": "A", "type_id": 0}})
    tokens = {text: {"id": text, "ids": [words.index(text)], "tokens": [text]} for text in ("[CLS]", "[SEP]")}
    process = {"type": "TemplateProcessing", "single": around, "pair": around, "special_tokens": tokens}
    whole = {"version": "1.0", "truncation": None, "padding": None, "normalizer": lower}
    whole |= {"added_tokens": [_added(i, text) for i, text in enumerate(special)], "model": model}
    whole |= {"pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": process}
    _dump(folder, "tokenizer.json", whole | {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}})
    roles = zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True)
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    _dump(folder, "tokenizer_config.json", config | {f"{role}_token": text for role, text in roles})


def _sentencepiece(folder):
    """tokenizer.model: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    words = [*(f"▁{letter}" for letter in LETTERS), *LETTERS][: SIZE - len(pieces)]
    pieces += [(word, -float(i), 1) for i, word in enumerate(words)]
    data = b"".join(_message(1, _piece(*piece)) for piece in pieces)
    data += _message(2, _number(3, 2) + _number(4, len(pieces)) + _number(40, 0) + _number(41, 1) + _number(42, 2))
    data += _message(3, _number(3, 1) + _number(4, 0) + _number(5, 1))
    (folder / "tokenizer.model").write_bytes(data)
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    config |= {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    _dump(folder, "tokenizer_config.json", config)


def _piece(text, score, kind):
    return _message(1, text.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", score) + _number(3, kind)


def _message(field, data):
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _number(field, value):
    return _varint(field << 3) + _varint(value)


def _varint(n):
    low = bytes([n & 0x7F | (0x80 if n > 0x7F else 0)])
    return low + _varint(n >> 7) if n > 0x7F else low
