"""What an architecture's table may say about its vocabulary."""

from dataclasses import dataclass

from quantreg.gguf import Value

__all__ = ["HINTS", "Vocabulary"]


@dataclass(frozen=True)
class Vocabulary:
    """How the models of an architecture keep their vocabulary. The default suits most decoders.

    - ``kinds``: the kinds of vocabulary to look for, in this order. The first whose files are in the folder is taken.
      "sentencepiece" is a `tokenizer.model`; "llama" a `tokenizer.json` of byte pairs over plain text with byte
      fallback, and "gemma4" the same with its merges; "bpe" a `tokenizer.json` of byte pairs over bytes; "wordpiece" a
      `vocab.txt` or `tokenizer.json`; "tekken" a `tekken.json` without a `tokenizer.json`; "unigram" a
      `tokenizer.json` of Unigram.
    - ``bpe_classes``: if `tokenizer_config.json` names one of these classes, "bpe" comes first.
    - ``looks_special``: an added token of a `tokenizer.model` whose text looks like that of a special token, such as
      "<|end|>", becomes a control token although the files do not say so.
    - ``added_from_json``: the added tokens of `tokenizer.json` replace those of a `tokenizer.model`.
    - ``space_prefix``: what `tokenizer.ggml.add_space_prefix` becomes for a `tokenizer.model`; "config" takes it from
      `tokenizer_config.json` for every kind, and writes it first.
    - ``eot``: the id of the token that ends a turn, if the files name none.
    - ``named_ids``: roles such as "eot", each with the text of the token that has it if the files name none.
    - ``config_ids``: roles such as "eos", each with the name in config.json that gives its id before all others.
    - ``eot_first``: if `generation_config.json` lists several ends, the first is the end of a turn.
    - ``token_types``: write how many token types there are ("type_vocab_size").
    - ``sizes``: a vocabulary size, and the keys that are written only for a model with that "vocab_size".
    - ``keys``: further keys, which are written last.
    """

    kinds: tuple[str, ...] = ("tekken", "sentencepiece", "llama", "bpe", "wordpiece")
    bpe_classes: tuple[str, ...] = ()
    looks_special: bool = True
    added_from_json: bool = False
    space_prefix: bool | str | None = None
    eot: int | None = None
    named_ids: tuple[tuple[str, str], ...] = ()
    config_ids: tuple[tuple[str, str], ...] = ()
    eot_first: bool = False
    token_types: bool = False
    sizes: tuple[tuple[int, tuple[tuple[str, Value], ...]], ...] = ()
    keys: tuple[tuple[str, Value], ...] = ()


_GLM = (("eos", "<|endoftext|>"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"))
# How the reference looks for the vocabulary of the architectures that it knows, under names for tables.
HINTS: dict[str, Vocabulary] = {
    "bpe": Vocabulary(kinds=("bpe",)),
    "qwen2": Vocabulary(kinds=("sentencepiece", "bpe")),
    # Code Llama has 32016 tokens, and Granite's small models have 49152.
    "llama": Vocabulary(
        kinds=("tekken", "sentencepiece", "llama", "bpe"),
        space_prefix="config",
        sizes=(
            (32016, (("tokenizer.ggml.eot_token_id", Value("u32", 32010)),)),
            (49152, (("tokenizer.ggml.add_bos_token", Value("bool", False)),)),
        ),
    ),
    "gemma": Vocabulary(kinds=("sentencepiece",), space_prefix=False, eot=107),
    "gemma2": Vocabulary(kinds=("sentencepiece",), space_prefix=False),
    "gemma3": Vocabulary(kinds=("sentencepiece", "bpe"), space_prefix=False),
    "gemma4": Vocabulary(kinds=("gemma4",)),
    "phi3": Vocabulary(
        kinds=("sentencepiece", "bpe"), bpe_classes=("GPT2Tokenizer",), looks_special=False, added_from_json=True
    ),
    "hunyuan": Vocabulary(kinds=("bpe",), config_ids=(("eos", "eod_token_id"),), eot_first=True),
    "glm4": Vocabulary(kinds=("bpe",), named_ids=(*_GLM, ("bos", "<|endoftext|>"))),
    "glm": Vocabulary(kinds=("bpe",), named_ids=_GLM),
    "glm4moe": Vocabulary(
        kinds=("bpe",),
        named_ids=(("bos", "[gMASK]"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("eom", "<|observation|>")),
    ),
    "bert": Vocabulary(kinds=("wordpiece", "unigram"), token_types=True),
    "xlm-roberta": Vocabulary(kinds=("unigram",), token_types=True),
}
