"""The folders of ``tests/golden/vocabularies/folders.json``: each spelling of a tokenizer's files, very small."""

import copy
import json

__all__ = ["folders"]

_FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_LETTERS = ["a", "b", "c", "Ġ", "ab", "Ġa", "Ġab", "t", "h", "e", "he", "the"]
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


def added(id_, text, special=False, **flags):
    return {"id": id_, "content": text, **_FLAGS, "special": special, **flags}


def bpe():
    """The files of a folder with byte pairs, which each variant changes."""
    special = [END, START, STOP]
    tokens = [added(12 + at, text, True) for at, text in enumerate(special)]
    tokens += [added(15, "<tool>"), added(16, "  "), added(17, "<|looks|>", normalized=True)]
    tokens += [added(18, "né", normalized=True), added(19, "x_y", normalized=True)]
    model = {"type": "BPE", "vocab": {token: at for at, token in enumerate(_LETTERS)}}
    model["merges"] = [["a", "b"], ["Ġ", "a"], ["Ġ", "ab"], ["h", "e"], ["t", "he"]]
    split = {"type": "Split", "pattern": {"Regex": _QWEN2}, "behavior": "Isolated", "invert": False}
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens}
    whole |= {"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, _LEVEL]}}
    whole |= {"post_processor": {**_LEVEL, "trim_offsets": False}, "decoder": _LEVEL, "model": model}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": STOP,
        "chat_template": "{{x}}",
    }
    config["added_tokens_decoder"] = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in tokens
    }
    model_config = {"model_type": "llama", "vocab_size": 24, "bos_token_id": 12, "eos_token_id": 14}
    return {"tokenizer.json": whole, "tokenizer_config.json": config, "config.json": model_config}


def template(first, last, between=()):
    def special(text):
        return {"SpecialToken": {"id": text, "type_id": 0}}

    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    start, stop = [special(first)] if first else [], [special(last)] if last else []
    ids = {END: 12, START: 13, STOP: 14}
    used = {text for text in (first, last, *between) if text}
    return {
        "type": "TemplateProcessing",
        "single": [*start, a, *stop],
        "pair": [*start, a, *map(special, between), b, *stop],
        "special_tokens": {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in sorted(used)},
    }


def variants():
    """Name -> a function that changes the files of `bpe`."""

    def config(**changes):
        def change(files):
            for key, value in changes.items():
                if value is ...:
                    files["tokenizer_config.json"].pop(key, None)
                else:
                    files["tokenizer_config.json"][key] = value

        return change

    def joined_merges(files):
        model = files["tokenizer.json"]["model"]
        model["merges"] = [" ".join(pair) for pair in model["merges"]]

    def flags(files):
        files["tokenizer_config.json"]["added_tokens_decoder"]["15"]["special"] = True

    def text_config(files):
        del files["tokenizer_config.json"]["bos_token"], files["config.json"]["bos_token_id"]
        files["config.json"]["text_config"] = {"bos_token_id": 7, "pad_token_id": 8}

    def without(*names):
        def change(files):
            for name in names:
                del files[name]

        return change

    def own(extra, **changes):
        return lambda files: (config(**changes)(files), files.update(extra))

    def old(files):
        config(added_tokens_decoder=..., bos_token=...)(files)
        files["special_tokens_map.json"] = {"bos_token": "<tool>", "additional_special_tokens": ["né"]}

    def text_files(files):
        model = files.pop("tokenizer.json")["model"]
        files["vocab.json"] = model["vocab"]
        files["merges.txt"] = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in model["merges"])
        files["tokenizer_config.json"]["tokenizer_class"] = "GPT2Tokenizer"
        files["config.json"]["model_type"] = "gpt2"

    def processor(process, **changes):
        def change(files):
            files["tokenizer.json"]["post_processor"] = process
            config(**changes)(files)

        return change

    old_name = {"__type": "AddedToken", "content": END, **_FLAGS}
    templates = [{"name": "default", "template": "D"}, {"name": "tool use", "template": "T"}]
    roberta = {"type": "RobertaProcessing", "sep": [STOP, 14], "cls": [END, 12], "trim_offsets": True}
    found = {
        "plain": lambda files: None,
        "joined merges": joined_merges,
        "no tokenizer config": without("tokenizer_config.json"),
        "no decoder": config(added_tokens_decoder=...),
        "flags": flags,
        "named": config(pad_token="<tool>", unk_token=None, mask_token="the"),
        "old names": config(bos_token=old_name),
        "additional": config(additional_special_tokens=["<tool>", "né"]),
        "add flags": config(add_bos_token=True, add_eos_token=False),
        "add flags alone": processor(None, add_bos_token=True, add_eos_token=True),
        "cls and sep": config(bos_token=..., eos_token=..., cls_token=START, sep_token=STOP),
        "text config": text_config,
        "old folder": old,
        "vocab.json": text_files,
        "jinja": own({"chat_template.jinja": "jinja"}, chat_template=...),
        "jinja and entry": own({"chat_template.jinja": "jinja"}),
        "jinja files": own({"chat_template.jinja": "j", "additional_chat_templates/rag.jinja": "r"}, chat_template=...),
        "template in json": own({"chat_template.json": {"chat_template": "J"}}, chat_template=...),
        "template list": config(chat_template=templates),
        "template list without default": config(chat_template=[{"name": "rag", "template": "R"}]),
        "bad template": config(chat_template={"a": 1}),
        "roberta": processor({**roberta, "add_prefix_space": False}, bos_token=..., eos_token=...),
    }
    names = {
        "none": (..., ...),
        "ends": (END, STOP),
        "others": (START, END),
        "old": (old_name, {**old_name, "content": STOP}),
    }
    for first, last, between in (
        *(
            (END, None, ()),
            (END, STOP, ()),
            (START, None, ()),
            (None, STOP, ()),
            (None, END, ()),
            (START, END, (STOP,)),
        ),
        *((None, None, (STOP,)), (None, None, (STOP, STOP)), (END, None, (END,)), (END, STOP, (STOP, STOP))),
    ):
        for kind, (bos, eos) in names.items():
            name = "-".join(str(text)[2:-2] or "x" for text in (first, last, *between))
            found[f"template {name} {kind}"] = processor(template(first, last, between), bos_token=bos, eos_token=eos)
    return found


def folders(trained):
    """Name -> (class, hint, pre, files). ``trained``: a `tokenizer.model` of each kind of SentencePiece."""
    found = {}
    for name, change in variants().items():
        files = copy.deepcopy(bpe())
        change(files)
        found[name] = ("Qwen2ForCausalLM", "qwen2", "gpt-2" if name == "vocab.json" else "qwen2", files)
    files = copy.deepcopy(bpe())
    files["tokenizer_config.json"]["add_prefix_space"] = False
    found["llama bytes"] = ("LlamaForCausalLM", "llama", "qwen2", files)
    found |= sentencepiece(trained)
    found |= llama_json()
    return found | bert()


def sentencepiece(trained):
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    model = {"vocab_size": 380, "bos_token_id": 1, "eos_token_id": 2}

    def decoder(*tokens):
        return {str(id_): added(id_, text, special) for id_, text, special in tokens}

    def files(model_config, tokenizer_config=config, kind="bpe", **more):
        return {
            "tokenizer.model": trained[kind],
            "config.json": {**model, **model_config},
            "tokenizer_config.json": tokenizer_config,
            **{name.replace("__", "."): content for name, content in more.items()},
        }

    more = decoder(
        (0, "<unk>", True), (1, "<s>", True), (380, "<|im|>", False), (381, "a▁b", False), (400, "<far>", True)
    )
    phi = {"added_tokens": [added(380, "<|end|>", True), added(383, "<|new|>")], "model": {"type": "BPE", "vocab": {}}}
    phi_decoder = decoder((380, "<|end|>", True), (381, "<|user|>", False), (382, "x▁", False))
    return {
        "sentencepiece": ("LlamaForCausalLM", "llama", None, files({})),
        "sentencepiece unigram": ("LlamaForCausalLM", "llama", None, files({"vocab_size": 388}, kind="unigram")),
        "sentencepiece added": (
            *("LlamaForCausalLM", "llama", None),
            files({"vocab_size": 384}, added_tokens__json={"<pad>": 380, "<x▁y>": 381, "<far>": 999}),
        ),
        "sentencepiece decoder": (
            *("LlamaForCausalLM", "llama", None),
            files({"vocab_size": 384}, {**config, "add_prefix_space": True, "added_tokens_decoder": more}),
        ),
        "sentencepiece smaller": ("LlamaForCausalLM", "llama", None, files({"vocab_size": 360, "eos_token_id": 999})),
        "gemma": ("GemmaForCausalLM", "gemma", None, files({"vocab_size": 384})),
        "gemma 2": ("Gemma2ForCausalLM", "gemma2", None, files({"vocab_size": 384})),
        "gemma 3": ("Gemma3ForCausalLM", "gemma3", None, files({"vocab_size": 384})),
        "phi 3": (
            *("Phi3ForCausalLM", "phi3", None),
            files({"vocab_size": 390}, {**config, "added_tokens_decoder": phi_decoder}, tokenizer__json=phi),
        ),
    }


def llama_json():
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab", "▁ab"]
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    model |= {"vocab": {token: at for at, token in enumerate(tokens)}}
    model |= {"merges": [["▁", "a"], ["a", "b"], ["▁a", "b"], ["▁", "ab"]]}
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    decoder = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    whole = {"version": "1.0", "truncation": None, "padding": None, "pre_tokenizer": None, "post_processor": None}
    whole |= {"added_tokens": [added(at, text, True) for at, text in enumerate(tokens[:3])]}
    whole |= {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, mark]}}
    whole |= {"decoder": {"type": "Sequence", "decoders": decoder}, "model": model}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    files = {"tokenizer.json": whole, "tokenizer_config.json": config}
    files["config.json"] = {"model_type": "llama", "vocab_size": 270, "bos_token_id": 1, "eos_token_id": 2}
    return {"llama json": ("LlamaForCausalLM", "llama", None, files)}


def bert():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, "a", "b", "##a", "##b", "ab", "##ab", "."]
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    model |= {"max_input_chars_per_word": 100, "vocab": {word: at for at, word in enumerate(words)}}
    lower = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    around = template(None, None)
    around["single"] = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, around["single"][0]]
    around["single"].append({"SpecialToken": {"id": "[SEP]", "type_id": 0}})
    around["pair"] = [*around["single"], {"Sequence": {"id": "B", "type_id": 1}}]
    around["pair"].append({"SpecialToken": {"id": "[SEP]", "type_id": 1}})
    around["special_tokens"] = {
        text: {"id": text, "ids": [at], "tokens": [text]} for at, text in ((2, "[CLS]"), (3, "[SEP]"))
    }
    whole = {"version": "1.0", "truncation": None, "padding": None, "model": model, "post_processor": around}
    whole |= {"added_tokens": [added(at, text, True) for at, text in enumerate(special)]}
    whole |= {
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    }
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    config = {"tokenizer_class": "BertTokenizer", **names}
    model_config = {"model_type": "bert", "vocab_size": 15, "type_vocab_size": 2, "pad_token_id": 0}

    def files(lowercase, strip, extra=()):
        tokenizer = json.loads(json.dumps(whole))
        tokenizer["normalizer"] = {**lower, "lowercase": lowercase, "strip_accents": strip}
        tokenizer["added_tokens"] += extra
        return {"tokenizer.json": tokenizer, "tokenizer_config.json": config, "config.json": model_config}

    more = [added(12, "[NEW]", True), added(13, "a b", normalized=True)]
    text = {"vocab.txt": "".join(f"{word}\n" for word in words), "config.json": model_config}
    return {
        "bert": ("BertModel", "bert", "jina-v2-en", files(True, None)),
        "bert cased": ("BertModel", "bert", "jina-v2-en", files(False, None)),
        "bert accents": ("BertModel", "bert", "jina-v2-en", files(False, True)),
        "bert added": ("BertModel", "bert", "jina-v2-en", files(True, None, more)),
        "bert text": ("BertModel", "bert", "jina-v2-en", {**text, "tokenizer_config.json": config}),
        "bert text without names": (
            *("BertModel", "bert", "jina-v2-en"),
            {**text, "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": False}},
        ),
    }
