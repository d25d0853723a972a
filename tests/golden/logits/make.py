"""Makes the logits of small models: python tests/golden/logits/make.py path/to/libllama.so [NAME...]

libllama is that of llama.cpp 0c1e57098, built for the CPU. It evaluates all tokens in one batch, on one thread, with a
key-value cache in F32 and without flash attention. The models are those of tests/support/small_models, all of them
unless names are given. A model of embeddings gives its states, (tokens, width), instead of logits.
"""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "support"))

import small_models  # noqa: E402

INT, UINT, FLOAT, BOOL, POINTER = ctypes.c_int32, ctypes.c_uint32, ctypes.c_float, ctypes.c_bool, ctypes.c_void_p
F32, FLASH_ATTENTION_OFF, POOLING_NONE = 0, 0, 0


class ModelParams(ctypes.Structure):
    _fields_ = [
        ("devices", POINTER),
        ("tensor_buft_overrides", POINTER),
        ("n_gpu_layers", INT),
        ("split_mode", INT),
        ("load_mode", INT),
        ("lazy_mode", INT),
        ("main_gpu", INT),
        ("tensor_split", POINTER),
        ("progress_callback", POINTER),
        ("progress_callback_user_data", POINTER),
        ("kv_overrides", POINTER),
        *((n, BOOL) for n in ("vocab_only", "check_tensors", "use_extra_bufts", "no_host", "no_alloc", "load_mtp")),
    ]


class ContextParams(ctypes.Structure):
    _fields_ = [
        *((n, UINT) for n in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max")),
        ("n_outputs_max_per_seq", UINT),
        *((n, INT) for n in ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type", "pooling_type")),
        *((n, INT) for n in ("attention_type", "flash_attn_type")),
        *((n, FLOAT) for n in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor")),
        *((n, FLOAT) for n in ("yarn_beta_fast", "yarn_beta_slow")),
        ("yarn_orig_ctx", UINT),
        ("defrag_thold", FLOAT),
        ("cb_eval", POINTER),
        ("cb_eval_user_data", POINTER),
        ("type_k", INT),
        ("type_v", INT),
        ("abort_callback", POINTER),
        ("abort_callback_data", POINTER),
        *((n, BOOL) for n in ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified")),
        ("samplers", POINTER),
        ("n_samplers", ctypes.c_size_t),
        ("ctx_other", POINTER),
    ]


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", INT),
        ("token", ctypes.POINTER(INT)),
        ("embd", ctypes.POINTER(FLOAT)),
        ("pos", ctypes.POINTER(INT)),
        ("n_seq_id", ctypes.POINTER(INT)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(INT))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, POINTER)


class Reference:
    """The parts of libllama that this needs."""

    def __init__(self, path):
        lib = self.lib = ctypes.CDLL(path)
        self.said = []
        self.log = LOG(lambda level, text, data: self.said.append(text.decode(errors="replace")))
        lib.llama_log_set(self.log, None)
        lib.llama_model_default_params.restype = ModelParams
        lib.llama_context_default_params.restype = ContextParams
        lib.llama_model_load_from_file.restype = POINTER
        lib.llama_model_load_from_file.argtypes = [ctypes.c_char_p, ModelParams]
        lib.llama_init_from_model.restype = POINTER
        lib.llama_init_from_model.argtypes = [POINTER, ContextParams]
        lib.llama_batch_init.restype = Batch
        for name in ("llama_decode", "llama_encode"):
            getattr(lib, name).argtypes = [POINTER, Batch]
        for name in ("llama_get_logits", "llama_get_embeddings"):
            getattr(lib, name).restype = ctypes.POINTER(FLOAT)
            getattr(lib, name).argtypes = [POINTER]
        lib.llama_backend_init()

    def run(self, path, ids, columns, encoder):
        """The logits of every token; the states of an encoder."""
        lib, n = self.lib, len(ids)
        self.said.clear()
        params = lib.llama_model_default_params()
        params.use_extra_bufts = False  # no repacked weights
        model = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not model:
            raise SystemExit("".join(self.said[-20:]))
        options = lib.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = 256
        options.n_threads = options.n_threads_batch = 1
        options.type_k = options.type_v = F32
        options.flash_attn_type = FLASH_ATTENTION_OFF
        if encoder:
            options.embeddings, options.pooling_type = True, POOLING_NONE
        context = lib.llama_init_from_model(model, options)
        if not context:
            raise SystemExit("".join(self.said[-20:]))
        batch = lib.llama_batch_init(n, 0, 1)
        batch.n_tokens = n
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        failed = (lib.llama_encode if encoder else lib.llama_decode)(context, batch)
        if failed:
            raise SystemExit("".join(self.said[-20:]))
        found = (lib.llama_get_embeddings if encoder else lib.llama_get_logits)(context)
        result = np.ctypeslib.as_array(found, (n, columns)).copy()
        lib.llama_free(POINTER(context))
        lib.llama_model_free(POINTER(model))
        return result


def main(library, *wanted):
    reference = Reference(library)
    for name in wanted or small_models.names():
        small = small_models.build(name)
        encoder = small.architecture in small_models.ENCODERS
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "small.gguf")
            small_models.write(small, path)
            ids = small_models.token_ids(name, small.vocab)
            result = reference.run(path, ids, small.width if encoder else small.vocab, encoder)
        np.save(HERE / f"{name}.npy", result)
        print(f"{name}: {result.shape}, mean {result.mean():.3f}, deviation {result.std():.3f}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or [os.environ["LLAMA_LIB"]]))
