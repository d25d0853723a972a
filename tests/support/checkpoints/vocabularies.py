"""Texts and structures of the goldens in ``tests/golden/vocabularies``: what their maker and the tests share."""

import base64
import hashlib
import json
import random
import unicodedata
from pathlib import Path

__all__ = [
    "GOLDEN",
    "GROUP",
    "STRUCTURES",
    "digests",
    "shortened",
    "texts",
    "texts_for",
    "tokenizer_json",
    "write_files",
]

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "vocabularies"
GROUP = 25  # texts behind one digest

_PARTS = (
    *" \t\n\r.,!?'\"`-_()[]{}<>|/\\@#$%^&*+=~0123456789",
    *(
        "  ",
        "   ",
        "    ",
        "\n\n",
        "\r\n",
        " \n",
        "'s",
        "'S",
        "'re",
        "'LL",
        "'d ",
        " 12345",
        "3.14",
        "１２",
        "é",
        "ü",
        "ß",
    ),
    *(
        "я",
        "Ж",
        "我",
        "想",
        "、",
        "。",
        "か",
        "カ",
        "ー",
        "한",
        "ㄱ",
        "ก",
        "न",
        "ا",
        "ل",
        "🚀",
        "\u200d",
        "\u00a0",
        "\u3000",
    ),
    *(
        "A",
        "b",
        "Z",
        "the",
        "The",
        "THE",
        "HTTPServer",
        "camelCase",
        "x1y2",
        "▁",
        "Ġ",
        "ै",
        "e\u0301",
        "ǅ",
        "Ⅷ",
        "½",
        "²",
    ),
    *(
        "_",
        "__",
        "...",
        "!?",
        "©",
        "€",
        "→",
        "\x00",
        "\x7f",
        "\u0085",
        "\u2028",
        "\ufeff",
        "𠀀",
        "it's",
        " we'll",
        "99 x",
    ),
    *("hello world", " in the", "return x + 1", "int main() {", "Привет мир", "工作1314天", "こんにちは", "안녕 세계"),
)


def texts(name, *, marks=True, digits=True, cases=True, ascii=False, normal=False, count=400):
    """Texts that only depend on the name, without those that the flags leave out."""
    source = random.Random(name)
    found = []
    while len(found) < count:
        text = "".join(_PARTS[int(source.random() * len(_PARTS))] for _ in range(1 + int(source.random() * 14)))
        if (
            (marks or not any(unicodedata.category(letter).startswith("M") for letter in text))
            and (digits or not any(letter.isdigit() for letter in text))
            and (cases or text == text.lower())
            and (text.isascii() or not ascii)
            and not (normal and unicodedata.normalize("NFC", text) != text)
        ):
            found.append(text)
    return found


def digests(ids):
    """One short hash for each group of texts, over their ids."""
    return [
        hashlib.sha256(json.dumps(ids[at : at + GROUP]).encode()).hexdigest()[:12] for at in range(0, len(ids), GROUP)
    ]


def shortened(entry):
    """A key, its type and its value, as goldens have them: a hash stands for a long list."""
    key, kind, value = entry
    if isinstance(value, list) and len(value) > 64:
        if kind == "array[f32]":
            value = [float(f"{number:.6g}") for number in value]  # float32 in one program, float64 in the other
        return [key, kind, len(value), hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]]
    return [key, kind, value]


_ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = _ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace("{1,3}", "")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
_BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
_NFC = {"type": "NFC"}
_DIGITS = {"type": "Digits", "individual_digits": True}


def _two_cases(numbers, suffix):
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{suffix}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{suffix}"
        rf"|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def _bytes(regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def _split(regex, behavior="Isolated"):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": behavior == "Removed"}


def _steps(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def _regexes(*regexes):
    return _steps(*map(_split, regexes), _bytes(False))


_GPT4O = _two_cases(r"\p{N}{1,3}", _ENGLISH + "?")
# Model -> its name in GGUF, "pre_tokenizer", and what else tells it from others: "normalizer", "ignore_merges", the
# "model_type" in config.json and added tokens. "marks", "digits", "cases" and "ascii": some texts are left out, because
# the reference is known to split them in another way.
_FLAGS = ("marks", "digits", "cases", "ascii")
STRUCTURES = {
    "llama-3": ("llama-bpe", _regexes(_LLAMA3), {"ignore_merges": True, "added": ["<|begin_of_text|>"]}),
    "olmo-2": ("dbrx", _regexes(_LLAMA3), {"added": ["<|endoftext|>"]}),
    "phi-4": ("dbrx", _steps(_split(_LLAMA3, "Removed"), _bytes(False)), {}),
    "glm-4": ("glm4", _regexes(_LLAMA3), {"ignore_merges": True, "added": ["[gMASK]", "<sop>"]}),
    "qwen-2": ("qwen2", _regexes(_QWEN2), {"normalizer": _NFC}),
    "qwen-2-nested": (
        "qwen2",
        _steps(_split(_QWEN2), _steps(_bytes(False))),
        {"normalizer": {"type": "Sequence", "normalizers": [_NFC]}},
    ),
    "stablelm-2": ("stablelm2", _regexes(_QWEN2), {"model_type": "stablelm"}),
    "r1-qwen": (
        "deepseek-r1-qwen",
        _regexes(_QWEN2),
        {"normalizer": _NFC, "added": ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]},
    ),
    "qwen-3.5": (
        "qwen35",
        _regexes(
            _ENGLISH + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        {"normalizer": _NFC},
    ),
    "gpt-2": ("gpt-2", _bytes(True), {}),
    "gpt-neox": ("olmo", _bytes(True), {"normalizer": _NFC}),
    "phi-2": ("phi-2", _bytes(True), {"model_type": "phi"}),
    "roberta": (
        "roberta-bpe",
        _bytes(True),
        {
            "added": ["<s>", "</s>"],
            "post_processor": {
                "type": "RobertaProcessing",
                "sep": ["</s>", 401],
                "cls": ["<s>", 400],
                "trim_offsets": True,
                "add_prefix_space": False,
            },
        },
    ),
    "falcon": (
        "falcon",
        _steps(
            {"type": "Punctuation", "behavior": "Contiguous"},
            _bytes(True),
            {"type": "Digits", "individual_digits": False},
            _split("[0-9][0-9][0-9]"),
        ),
        {"ascii": True, "digits": False},
    ),
    "starcoder-2": ("starcoder", _steps(_DIGITS, _bytes(True)), {"added": ["<repo_name>", "<file_sep>"]}),
    "granite": ("refact", _steps(_DIGITS, _bytes(True)), {"added": ["<fim_prefix>", "<reponame>"]}),
    "smollm": ("smollm", _steps(_DIGITS, _bytes(True)), {"added": ["<|im_start|>", "<repo_name>", "<reponame>"]}),
    "command-r": ("command-r", _steps(_DIGITS, _bytes(True)), {"normalizer": _NFC}),
    "gpt-4o": ("gpt-4o", _steps(_split(_GPT4O, "Removed"), _bytes(False)), {"marks": False}),
    "llama-4": ("llama4", _regexes(_GPT4O), {"model_type": "llama4", "marks": False}),
    "tekken": ("tekken", _regexes(_two_cases(r"\p{N}", "")), {"ignore_merges": True, "marks": False}),
    "tiny-aya": (
        "tiny_aya",
        _regexes(r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O),
        {"marks": False, "digits": False, "cases": False},
    ),
    "deepseek-v3": ("deepseek-v3", _regexes(*_DEEPSEEK3), {"normalizer": {"type": "Sequence", "normalizers": []}}),
    "deepseek-coder": (
        "deepseek-coder",
        _steps(*map(_split, ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+")), _DIGITS, _bytes(False)),
        {},
    ),
    "bailing": (
        "bailingmoe",
        _regexes(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
        {},
    ),
    "bloom": ("bloom", _regexes(_BLOOM), {}),
    "viking": ("viking", _steps(_split(_BLOOM), _DIGITS, _bytes(False)), {}),
    "jais-2": (
        "jais-2",
        _regexes(
            _LLAMA3.removesuffix(r"|\s+(?!\S)|\s+")
            + "".join(rf"|\s{{{n}}}(?!\S)" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))
            + r"|\s{1}"
        ),
        {},
    ),
    "minicpm-5": (
        "minicpm5",
        _regexes(r"\p{N}{1,3}", _LLAMA3.replace("{1,3}", "+")),
        {"ignore_merges": True},
    ),
    "exaone-moe": (
        "exaone-moe",
        _regexes(
            _ENGLISH + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
            r"|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
        {},
    ),
}


def texts_for(name):
    """The texts of a structure."""
    rest = STRUCTURES[name][2]
    return texts(name, normal="normalizer" in rest, **{flag: rest[flag] for flag in _FLAGS if flag in rest})


def tokenizer_json(name, vocabulary, merges):
    """The `tokenizer.json` of a structure, with a vocabulary of bytes and some pairs."""
    _, splits, rest = STRUCTURES[name]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": len(vocabulary) + at, "content": text, **flags, "special": True}
        for at, text in enumerate(rest.get("added", []))
    ]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False}
    model |= {"ignore_merges": rest.get("ignore_merges", False), "vocab": vocabulary, "merges": merges}
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    whole |= {"normalizer": rest.get("normalizer"), "pre_tokenizer": splits}
    return whole | {"post_processor": rest.get("post_processor"), "decoder": _bytes(True), "model": model}


def write_files(folder, files):
    """Write the files of a golden: texts as they are, anything else as JSON, and "base64:..." as bytes."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("base64:"):
            path.write_bytes(base64.b64decode(content[7:]))
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder
