"""Texts for tokenizers: ten scripts, code, emoji, runs of white space, and characters that no text should have."""

import random

TEXTS = [
    "",
    " ",
    "Hello, world! It's 3.14 or 1234567, isn't it? I'LL say they'Ve gone; we're done.",
    "  Two  spaces,\tone tab\n\n\n three line breaks \r\n and a trailing space ",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Straße, ſ, ﬁ.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю: 2024 год.",
    "Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία, ΑΒΓ ΣΑΣ.",
    "敏捷的棕色狐狸跳过了懒狗。共有１２３４只，价格¥5,000。",
    "いろはにほへと ちりぬるを、カタカナとﾊﾝｶｸ。",
    "다람쥐 헌 쳇바퀴에 타고파. 한국어 텍스트 123개!",
    "نص حكيم له سر قاطع وذو شأن عظيم، ١٢٣٤ مكتوب.",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה. שָׁלוֹם",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश १२३.",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ๑๒๓ ກຂຄ កខគ",
    "የኢትዮጵያ ቋንቋ፡፡ ႠႡႢ აბგ Հայերեն ᏣᎳᎩ",
    "🚀 👩‍👩‍👧‍👦 🇩🇪🏳️‍🌈 ✅ 😀😀 1️⃣ ™ © ½ ² Ⅷ ①",
    'def f(x):\n    """Doc."""\n    if x >= 10_000 and not x % 3:\n        return {"a": [x**2, -1e-9]}  # it\'s\n',
    "#include <stdio.h>\nint main(int argc, char **argv) {\n\tprintf(\"%d\\n\", argc);\n\treturn 0;\n}\n",
    "a\u0301e\u0308 n\u0303 I\u0307 \u0130 \u00a0nbsp\u3000wide\u2028line\u0085next\u200bzero\ufeffbom",
    "control \x00\x01\x1b[0m\x7f private \ue000 unassigned \u0378\U000e0080 replacement \ufffd",
    "<s>text</s> <|user|>hi<|control|> [MASK] <mask> <0x0A> ▁mark ▁▁",
    "111 1111 11111 111111 1111111, a1b22c333d4444 ٣٣٣٣",
    "ALLCAPS camelCaseWords HTTPServer ÀÉÎ straßeNAME ДОМдом",
    "...---!!!??? \"quoted\" 'single' ' lone ' can ' t (paren) [x] {y} a/b\\c ~`|^$+<=>",
    "\n\n\n\t\t\t    x     \n  y\n \n\n z\r\r\n",
    "don't can't won't isn't it's that's DON'T CAN'T don't can't I'll we'll",
    "kalbı'nın ev'ler ev'deki ev'deki 'tis 'tis 'sun 'sun",
    "myVarName myVarName HTTPServer HTTPServer aB aB cD cD",
    "中a中a文b文b中a文b 中 a",
    "x  1 x  1\ty   22  22 x  1",
    "path/to//x !/\n/ !/\n/ ...//\n ...//\n a/\n\n a/\n\n",
    "\u3007\u4e00\u9fa5\u9fff\u3400\ufa0e\ufada\U00020000\U0002b81f \U0002b850\U0002b851 \U0002ebf0\U00031350 han",
]  # fmt: skip

# Bytes that are no UTF-8: cut characters, overlong forms, surrogates, bytes that never occur.
BROKEN = [
    raw.decode("utf-8", "surrogateescape")
    for raw in (
        b"cut \xe2\x82 \xf0\x9f\x98 \xe2a\xe4\xb8",
        b"over\xc0\x80long \xf0\x80\x80\xaf surrogate \xed\xa0\x80 <|user|>\x80\xbf never \xff",
    )
]

_RANGES = [
    *((0x20, 0x7E),) * 6,
    *((0x00, 0x1F), (0x80, 0x24F), (0x250, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xEFF)),
    *((0x1100, 0x11FF), (0x1780, 0x17FF), (0x1E00, 0x206F), (0x2070, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF)),
    *(
        (0xA000, 0xABFF),
        (0xAC00, 0xD7FF),
        (0xE000, 0xFFFF),
        (0x10000, 0x1FFFF),
        (0x20000, 0x323AF),
        (0xE0000, 0x10FFFF),
    ),
]
_SPACES = " \t\n\r\x0b\x0c\u00a0\u1680\u2003\u2028\u3000\u0085"
_BITS = [
    *(
        "'s",
        "'S",
        "'ll",
        "'RE",
        "'",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "1",
        "12",
        "123",
        "4567",
        "a",
        "Z",
        "e\u0301",
    ),
    *(
        "▁",
        ".",
        ", ",
        "!",
        " '",
        "</s>",
        "<|user|>",
        "<|control|>",
        "<mask>",
        "[MASK]",
        "中",
        "한",
        "ß",
        "İ",
        "😀",
        "/",
        "_",
    ),
]


def random_text(rng: random.Random) -> str:
    """A text of up to 60 pieces, each from the texts above, one character of a range, white space, or a trap."""
    parts = []
    for _ in range(rng.randint(1, 60)):
        choice = rng.random()
        if choice < 0.35:
            parts.append(rng.choice(_BITS))
        elif choice < 0.5:
            text = rng.choice(TEXTS)
            at = rng.randint(0, len(text))
            parts.append(text[at : at + rng.randint(1, 12)])
        elif choice < 0.6:
            parts.append(rng.choice(_SPACES) * rng.randint(1, 4))
        else:
            first, last = rng.choice(_RANGES)
            parts += [chr(rng.randint(first, last)) for _ in range(rng.randint(1, 4))]
    return "".join(parts)


def random_bytes(rng: random.Random) -> bytes:
    """Bytes of which some are no UTF-8: cut and overlong characters, surrogates, bare continuation bytes.

    No byte is above 0xF3 but 0xFF, because the reference ends the process at code points above U+10FFFF.
    """
    text = "".join(c for c in random_text(rng)[:40] if c < "\U00100000").encode("utf-8", "surrogatepass")
    bad = [
        b"\xe2\x82",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\x80",
        b"\xbf\xbf",
        b"\xff",
        b"\xf0\x9f\x98",
        b"\xf0\x80\x80\xaf",
        b"\xe2a",
    ]
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice(bad) + text[at:] + rng.choice([b"", *bad])
