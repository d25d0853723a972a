"""The table of pre-tokenizers: how the model "gpt2" (byte pairs) splits a text before it merges.

A GGUF file names one in `tokenizer.ggml.pre`. Each regular expression splits the pieces that the one before left: every
match is a piece, and so is what lies between two matches. The expressions are those of llama.cpp 0c1e57098
(src/llama-vocab.cpp) and do what its splitters do, also where these differ from the tokenizer.json of a model:

- `\\p{L}`, `\\p{M}`, `\\p{N}`, `\\p{P}` and `\\p{S}` are major categories in Unicode 15.1 (`categories.py`).
- `\\p{Upper}` is any letter but a to z and `\\p{Lower}` any letter but A to Z: there is no case beyond ASCII.
- `\\p{Han}` is the Chinese blocks, and `\\p{NotHan}` a letter outside them.
- `\\s` is any white space in Unicode, `\\d` is 0 to 9, and `$` is the end of the piece.
"""

from dataclasses import dataclass, replace

__all__ = ["PRETOKENIZERS", "PreTokenizer"]


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """What a name of a pre-tokenizer stands for.

    - ``splits``: regular expressions, applied one after the other.
    - ``whole_words``: a piece that is a token is that token, whatever the merges say.
    - ``clean_up``: decoded text loses the spaces in front of punctuation.
    - ``add_bos``: the model puts BOS in front unless the file says otherwise.
    - ``add_sep``: the same for the separator at the end.
    - ``no_bos``: the model has no BOS unless the file names one.
    - ``spaces_marked``: spaces become "▁" and the tokens are plain text, not bytes written as printable characters.
    - ``newline_runs``: a run of line breaks that is a token is that token.
    """

    splits: tuple[str, ...]
    whole_words: bool = False
    clean_up: bool = True
    add_bos: bool = False
    add_sep: bool = False
    no_bos: bool = False
    spaces_marked: bool = False
    newline_runs: bool = False


# Parts that recur.
_SUFFIX = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
# Written with \p{Lu}, \p{Ll} and so on, each of which is any letter to the reference's general splitter.
_ANY_CASE = rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+{_SUFFIX}?|NUMBER|{_SYMBOLS}[\r\n/]*|{_SPACES}"
_TWO_CASES = (
    r"[^\r\n\p{L}\p{N}]?[\p{Upper}MARK]*[\p{Lower}MARK]+SUFFIX|[^\r\n\p{L}\p{N}]?[\p{Upper}MARK]+[\p{Lower}MARK]*SUFFIX"
    rf"|NUMBER|{_SYMBOLS}[\r\n/]*|{_SPACES}"
)
_ASCII_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA3 = rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_SUFFIX}|{_WORD}|\p{{N}}|{_SYMBOLS}[\r\n]*|{_SPACES}"
_QWEN35 = rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
_JAIS2 = (
    rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}[\r\n]*|\s*[\r\n]+"
    + "".join(rf"|\s{{{n}}}(?!\S)" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))
    + r"|\s{1}"
)
_KANA_HAN = r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_CJK = r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK3 = (r"\p{N}{1,3}", _KANA_HAN, rf"{_ASCII_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}")
_BLOOM = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_LINES = r"[^\n]+|[\n]+"
# Threes from the right; what stands before a number stays with its first digits. Only there is the number counted.
_THREES = r"(?<=\p{N})\p{N}{3}|[^\p{N}]*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))|[^\p{N}]+"

# Letters of the scripts that have two cases.
_CASED = (
    r"\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    r"\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531"
    r"-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-"
    r"\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80"
    r"-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    r"\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    r"\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    r"\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    r"\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-"
    r"\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
# Chinese, Japanese, Thai, Lao, Khmer, Burmese, Korean.
_ASIA = (
    r"\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
    r"\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff"
)
_YOUTU = (
    r"[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f"
    r"\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)

_llama3 = PreTokenizer((_LLAMA3,))
_gpt2 = PreTokenizer((_GPT2,))
_starcoder = PreTokenizer((r"\p{N}", _GPT2))
_falcon = PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))
_qwen2 = PreTokenizer((_QWEN2,), clean_up=False)
_deepseek3 = PreTokenizer(_DEEPSEEK3, clean_up=False)
_gpt4o = PreTokenizer(
    (_TWO_CASES.replace("MARK", "").replace("SUFFIX", _SUFFIX + "?").replace("NUMBER", r"\p{N}{1,3}"),), clean_up=False
)
_bailing = PreTokenizer(
    (rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_WORD}|\p{{N}}|{_SYMBOLS}[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",),
    clean_up=False,
)
_bloom = PreTokenizer((_BLOOM,))

PRETOKENIZERS: dict[str, PreTokenizer] = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    **dict.fromkeys(
        (
            *("gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum"),
            *("modern-bert", "exaone4", "mpt", "olmo", "jais"),
        ),
        _gpt2,
    ),
    **dict.fromkeys(("jina-v1-en", "jina-v2-code", "roberta-bpe"), replace(_gpt2, add_sep=True)),
    **dict.fromkeys(("trillion", "granite-docling"), replace(_gpt2, clean_up=False)),
    **dict.fromkeys(("starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"), _starcoder),
    **dict.fromkeys(("command-r", "smollm"), replace(_starcoder, clean_up=False)),
    "falcon": _falcon,
    **dict.fromkeys(
        (
            *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
            "jina-v5-nano",
        ),
        replace(_llama3, whole_words=True, add_bos=True),
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _llama3),
    "chatglm-bpe": replace(_llama3, no_bos=True),
    **dict.fromkeys(("glm4", "glm5"), replace(_llama3, no_bos=True, whole_words=True)),
    "jais-2": PreTokenizer((_JAIS2,)),
    "minicpm5": PreTokenizer(
        (r"\p{N}{1,3}", rf"{_SUFFIX}|{_WORD}|\p{{N}}+|{_SYMBOLS}[\r\n]*|{_SPACES}"), whole_words=True
    ),
    **dict.fromkeys(
        ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "hunyuan", "grok-2", "solar-open"),
        _qwen2,
    ),
    **dict.fromkeys(("stablelm2", "megrez"), replace(_qwen2, clean_up=True)),
    "qwen35": PreTokenizer((_QWEN35,), clean_up=False),
    "ufakzeka": PreTokenizer((rf"{_WORD}|\p{{N}}|{_SYMBOLS}[\r\n]*|{_SPACES}",), clean_up=False),
    "laguna": PreTokenizer((_LINES, _QWEN2), clean_up=False),
    "seed-coder": PreTokenizer(
        (rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",), clean_up=False
    ),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), _bailing),
    "exaone-moe": PreTokenizer(
        (
            rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}|{_SYMBOLS}[\r\n/]?"
            r"|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    "deepseek-llm": PreTokenizer(
        (
            *("[\r\n]", rf"\s?[A-Za-z{_CASED}]+"),
            r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            *(r"\s+$", _CJK, r"\p{N}+"),
        ),
        clean_up=False,
    ),
    "deepseek-coder": PreTokenizer(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}"), clean_up=False),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"), _deepseek3),
    "spark2_5": PreTokenizer(
        (r"\p{N}{1,3}", _KANA_HAN, rf"{_ASCII_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}"), clean_up=False
    ),
    "afmoe": PreTokenizer((_THREES, f"[{_ASIA}]+", _DEEPSEEK3[2]), clean_up=False),
    "youtu": PreTokenizer((_YOUTU, _ANY_CASE.replace("NUMBER", r"\p{N}")), whole_words=True, clean_up=False),
    "tiny_aya": PreTokenizer((_THREES, _ANY_CASE.replace("NUMBER", r"\p{N}{1,3}")), clean_up=False),
    "cohere2moe": PreTokenizer((_THREES, _ANY_CASE.replace("NUMBER", r"\p{N}{1,3}")), clean_up=False),
    "tekken": PreTokenizer(
        (_TWO_CASES.replace("MARK", "").replace("SUFFIX", "").replace("NUMBER", r"\p{N}"),),
        whole_words=True, clean_up=False, add_bos=True,
    ),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), _gpt4o),
    "granite-embed-multi-97m": PreTokenizer(
        (_TWO_CASES.replace("MARK", r"\p{M}").replace("SUFFIX", _SUFFIX + "?").replace("NUMBER", r"\p{N}{1,3}"),),
        whole_words=True, clean_up=False,
    ),
    "kimi-k2": PreTokenizer(
        (
            rf"\p{{Han}}+|[^\r\n\p{{L}}\p{{N}}]?\p{{NotHan}}+{_SUFFIX}?|\p{{N}}{{1,3}}|{_SYMBOLS}[\r\n]*|{_SPACES}",
        ),
        clean_up=False,
    ),
    "superbpe": PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))"), clean_up=False),
    **dict.fromkeys(("bloom", "gpt3-finnish"), _bloom),
    "poro-chat": replace(_bloom, clean_up=False),
    "viking": PreTokenizer((_BLOOM, r"\p{N}"), clean_up=False),
    "chameleon": PreTokenizer(
        (
            *("<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}"),
            *(r"[\p{P}!-/:-@\[-`{-~]", _GPT2),
        ),
        clean_up=False, add_bos=True,
    ),
    **dict.fromkeys(
        ("gemma4", "granite-embed-multi-311m"), PreTokenizer((_LINES,), spaces_marked=True, newline_runs=True)
    ),
    "sarvam-moe": PreTokenizer((_LINES,), spaces_marked=True, clean_up=False),
}  # fmt: skip
