"""Makes options.json: python tests/golden/make_options.py path/to/llama-quantize (llama.cpp 0c1e57098, x86-64, no FMA).

Each run is `llama-quantize WORDS 1`, "OUT" being the output, in a folder with the files of support/option_models.py.
Noted are the SHA-256 of each file written, by the part of its name after "out", or that the reference refused (exit
code 1) or crashed.
"""

import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = """
--pure small.gguf OUT Q4_K_S
--pure --imatrix moe-imatrix.gguf moe.gguf OUT IQ4_XS
--pure tied.gguf OUT Q6_K
--leave-output-tensor tied.gguf OUT Q4_K_M
--leave-output-tensor --output-tensor-type bf16 moe.gguf OUT Q4_0
--output-tensor-type q5_k --pure moe.gguf OUT Q4_K_M
--output-tensor-type f16 tied.gguf OUT Q3_K_M
--output-tensor-type q8_0 tied.gguf OUT Q3_K_M
--output-tensor-type q4_k tied.gguf OUT Q3_K_M
--token-embedding-type q4_k tied.gguf OUT Q3_K_M
--token-embedding-type f32 moe.gguf OUT Q8_0
--token-embedding-type tq2_0 --output-tensor-type iq4_nl moe.gguf OUT F16
--output-tensor-type iq2_xxs small.gguf OUT Q4_K_M
--tensor-type attn_v=q8_0 --tensor-type attn=q4_0 small.gguf OUT Q4_K_M
--tensor-type attn=q4_0 --tensor-type attn_v=q8_0 small.gguf OUT Q4_K_M
--tensor-type 'blk\\.(0|3)\\.attn_[kq]=bf16' --tensor-type ATTN_V=Q5_1 small.gguf OUT Q4_K_M
--tensor-type 'blk\\.[[:digit:]]\\.ATTN_[[:alpha:]]=q5_0' small.gguf OUT Q4_K_M
--tensor-type '^blk\\.\\d\\.(?!ffn)=q5_0' small.gguf OUT Q4_K_M
--tensor-type 'exps=q4_0' --pure moe.gguf OUT Q4_K_M
--tensor-type ffn_down=q8_0 small.gguf OUT F16
--tensor-type token_embd=q6_k --tensor-type output=q5_0 small.gguf OUT Q4_K_M
--tensor-type attn_v=mxfp4 --tensor-type attn_k=nvfp4 --tensor-type attn_q=q2_0 small.gguf OUT Q4_K_M
--tensor-type attn_v=iq2_xxs small.gguf OUT Q4_K_M
--imatrix small-imatrix.gguf --tensor-type attn_v=iq2_xxs small.gguf OUT Q4_K_M
--tensor-type attn_v=q1_0 tied.gguf OUT Q4_K_M
--tensor-type attn_v=i8 small.gguf OUT Q4_K_M
--tensor-type-file types.txt --tensor-type attn_v=q4_0 small.gguf OUT Q3_K_M
--tensor-type attn_v=q4_0 --tensor-type-file types.txt small.gguf OUT Q3_K_M
--tensor-type-file none.txt small.gguf OUT Q3_K_M
--prune-layers 0 small.gguf OUT Q4_K_M
--prune-layers 2,0,2 --imatrix moe-imatrix.gguf moe.gguf OUT IQ3_XXS
--prune-layers 1 --prune-layers 12,3 tied.gguf OUT Q4_K_M
--prune-layers 0,1,2,3 small.gguf OUT Q4_K_M
--prune-layers 1 --tensor-type 'blk\\.1\\.=q8_0' small.gguf OUT Q4_K_M
--prune-layers 1 small.gguf OUT COPY
--prune-layers x small.gguf OUT COPY
--prune-layers '' small.gguf OUT COPY
--imatrix moe-imatrix.gguf --include-weights exps --include-weights attn_q moe.gguf OUT Q4_K_M
--imatrix moe-imatrix.gguf --exclude-weights ffn_up --exclude-weights blk.1. moe.gguf OUT Q4_0
--imatrix moe-imatrix.gguf --exclude-weights blk moe.gguf OUT Q4_0
--imatrix moe-imatrix.gguf --include-weights nothing moe.gguf OUT IQ3_S
--imatrix moe-imatrix.gguf --exclude-weights ffn_up moe.gguf OUT IQ3_XXS
--imatrix moe-imatrix.gguf --include-weights a --exclude-weights b moe.gguf OUT Q4_0
--imatrix moe-imatrix.gguf moe.gguf OUT IQ1_S
--imatrix moe-imatrix.gguf moe.gguf OUT IQ2_M
--imatrix moe-imatrix.gguf moe.gguf OUT IQ3_XS
--imatrix moe-imatrix.gguf moe.gguf OUT Q2_K_S
--imatrix moe-imatrix.gguf moe.gguf OUT Q5_0
--imatrix small-imatrix.gguf moe.gguf OUT Q4_K_M
--imatrix none.gguf moe.gguf OUT Q4_0
moe.gguf OUT MXFP4_MOE
moe.gguf OUT Q3_K_M
moe.gguf OUT TQ1_0
tied.gguf OUT Q2_K
tied.gguf OUT Q3_K_L
tied.gguf OUT IQ4_XS
tied.gguf OUT Q1_0
--override-kv a.int=int:-5 --override-kv a.float=float:0.1 --override-kv a.yes=bool:true small.gguf OUT Q4_0
--override-kv a.no=bool:false --override-kv 'a.text=str:ünï=:x y' --override-kv a.empty=str: small.gguf OUT Q4_0
--override-kv a.n=int:1 --override-kv a.n=int:4294967295 --override-kv general.name=int:3 small.gguf OUT Q4_0
--override-kv general.file_type=int:3 --override-kv general.quantization_version=int:9 small.gguf OUT Q4_0
--override-kv general.file_type=int:7 small.gguf OUT COPY
--override-kv llama.attention.head_count_kv=int:1 small.gguf OUT Q2_K
--override-kv llama.block_count=int:8 small.gguf OUT Q4_K_S
--override-kv a.bad=bool:yes small.gguf OUT Q4_0
--override-kv a.bad small.gguf OUT Q4_0
--override-kv a.bad=u8:1 small.gguf OUT Q4_0
--override-kv split.count=int:2 small.gguf OUT Q4_0
--max-buffer-size 1 moe.gguf OUT Q4_K_M
--max-buffer-size 0 moe.gguf OUT Q4_K_M
--keep-split in-00001-of-00003.gguf OUT Q4_K_M
--keep-split --prune-layers 1 --leave-output-tensor in-00001-of-00003.gguf OUT Q5_K_M
--keep-split meta-00001-of-00003.gguf OUT Q4_K_M
--keep-split --imatrix small-imatrix.gguf meta-00001-of-00003.gguf OUT IQ4_XS
--keep-split meta-00001-of-00003.gguf OUT COPY
--keep-split small.gguf OUT Q4_0
meta-00001-of-00003.gguf OUT Q4_K_M
meta-00001-of-00003.gguf OUT COPY
q8.gguf OUT Q4_K_M
q8.gguf OUT COPY
q8.gguf OUT Q8_0
--allow-requantize q8.gguf OUT Q4_K_M
--allow-requantize --pure --leave-output-tensor q8.gguf OUT Q5_1
--allow-requantize --imatrix small-imatrix.gguf q8.gguf OUT IQ2_XS
--allow-requantize q8.gguf OUT BF16
moe.gguf OUT 15
moe.gguf OUT 33
moe.gguf OUT 99
moe.gguf OUT q5_k
moe.gguf OUT Copy
"""


def digests(folder):
    return {
        path.name.removeprefix("out"): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("out*")
    }


def main(llama_quantize):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
    import option_models

    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        option_models.write_models(folder)
        for line in RUNS.strip().splitlines():
            with tempfile.TemporaryDirectory() as out:
                words = [f"{out}/out.gguf" if word == "OUT" else word for word in shlex.split(line)]
                done = subprocess.run([llama_quantize, *words, "1"], cwd=folder, capture_output=True)
                written = digests(Path(out))
            found[line] = written if done.returncode == 0 else "refused" if done.returncode == 1 else "crashed"
    (Path(__file__).parent / "options.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
