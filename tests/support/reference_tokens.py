"""The reference's tokenizer through ctypes: libllama of llama.cpp 0c1e57098, which reads the vocabulary of a file."""

import ctypes
import os

INT, BOOL, POINTER = ctypes.c_int32, ctypes.c_bool, ctypes.c_void_p
LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, POINTER)


class ModelParams(ctypes.Structure):
    _fields_ = [
        ("devices", POINTER),
        ("tensor_buft_overrides", POINTER),
        *((n, INT) for n in ("n_gpu_layers", "split_mode", "load_mode", "lazy_mode", "main_gpu")),
        *((n, POINTER) for n in ("tensor_split", "progress_callback", "progress_callback_user_data", "kv_overrides")),
        *((n, BOOL) for n in ("vocab_only", "check_tensors", "use_extra_bufts", "no_host", "no_alloc", "load_mtp")),
    ]


class Reference:
    """libllama; `vocabulary` opens a file."""

    def __init__(self, path):
        lib = self.lib = ctypes.CDLL(path)
        self.said = []
        self.log = LOG(lambda level, text, data: self.said.append(text.decode(errors="replace")))
        lib.llama_log_set(self.log, None)
        lib.llama_model_default_params.restype = ModelParams
        lib.llama_model_load_from_file.restype = POINTER
        lib.llama_model_load_from_file.argtypes = [ctypes.c_char_p, ModelParams]
        lib.llama_model_get_vocab.restype = POINTER
        lib.llama_model_get_vocab.argtypes = [POINTER]
        lib.llama_model_free.argtypes = [POINTER]
        text, ids = ctypes.c_char_p, ctypes.POINTER(INT)
        lib.llama_tokenize.argtypes = [POINTER, text, INT, ids, INT, BOOL, BOOL]
        lib.llama_detokenize.argtypes = [POINTER, ids, INT, text, INT, BOOL, BOOL]
        lib.llama_token_to_piece.argtypes = [POINTER, INT, text, INT, INT, BOOL]
        lib.llama_vocab_is_eog.argtypes = [POINTER, INT]
        lib.llama_vocab_is_eog.restype = BOOL
        for name in ("bos", "eos", "eot", "sep", "n_tokens", "get_add_bos", "get_add_eos"):
            getattr(lib, f"llama_vocab_{name}").argtypes = [POINTER]
        lib.llama_vocab_get_add_bos.restype = lib.llama_vocab_get_add_eos.restype = BOOL
        lib.llama_backend_init()

    def vocabulary(self, path):
        params = self.lib.llama_model_default_params()
        params.vocab_only = True
        self.said.clear()
        model = self.lib.llama_model_load_from_file(os.fsencode(path), params)
        if not model:
            raise RuntimeError("libllama: " + " ".join(line.strip() for line in self.said[-3:]))
        return ReferenceVocabulary(self.lib, model)


class ReferenceVocabulary:
    """The vocabulary of a file, as the reference reads it."""

    def __init__(self, lib, model):
        self.lib, self.model = lib, model
        self.vocab = lib.llama_model_get_vocab(model)
        self.size = lib.llama_vocab_n_tokens(self.vocab)

    def close(self):
        self.lib.llama_model_free(self.model)

    def encode(self, text, special=False):
        raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        out = (INT * (2 * len(raw) + 8))()
        count = self.lib.llama_tokenize(self.vocab, raw, len(raw), out, len(out), False, special)
        assert count >= 0
        # A bert vocabulary gets its first and last token all the same where the file does not forbid it.
        return out[:count]

    def decode_bytes(self, ids, special=False):
        array = (INT * max(len(ids), 1))(*ids)
        room = 64 * len(ids) + 4096
        while True:
            out = ctypes.create_string_buffer(room)
            count = self.lib.llama_detokenize(self.vocab, array, len(ids), out, room, False, special)
            if count >= 0:
                return out.raw[:count]
            room = -count + 16

    def token_bytes(self, id, special=False):
        out = ctypes.create_string_buffer(4096)
        count = self.lib.llama_token_to_piece(self.vocab, id, out, 4096, 0, special)
        assert count >= 0
        return out.raw[:count]

    def facts(self):
        lib, vocab = self.lib, self.vocab
        roles = {name: getattr(lib, f"llama_vocab_{name}")(vocab) for name in ("bos", "eos", "eot", "sep")}
        return {
            **{name: None if id < 0 else id for name, id in roles.items()},
            "add_bos": bool(lib.llama_vocab_get_add_bos(vocab)),
            "add_eos": bool(lib.llama_vocab_get_add_eos(vocab)),
            "end_ids": [id for id in range(self.size) if lib.llama_vocab_is_eog(vocab, id)],
        }
