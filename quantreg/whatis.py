"""What a path leads to: a model, or something else that people take for one, and then what to do about it."""

import os
import re
import stat
from typing import NamedTuple

from quantreg.errors import GGUFFormatError

__all__ = [
    "HEAD",
    "LEGACY_IMATRIX",
    "SHARD_NAME",
    "Kind",
    "kind_of",
    "looks_like_safetensors",
    "model_path",
    "piece_of",
    "read_head",
]

_MOST_LOOKED_INTO = 100  # entries of a folder in which a model is looked for, to name the one that holds it
HEAD = 4096  # bytes at the beginning of a file from which its kind is told

# PREFIX-00001-of-00003.gguf or .safetensors. Some repositories pad the two numbers to different widths, and some have
# a variant before the extension (-00001-of-00002.fp16.safetensors).
SHARD_NAME = re.compile(
    r"(?P<prefix>.*)-(?P<number>[0-9]{1,9})-of-(?P<count>[0-9]{1,9})(?P<suffix>(?:\.\w+)?\.(?:gguf|safetensors))",
    re.DOTALL,
)


class Kind(NamedTuple):
    """What a file is, as in "is a web page", and what to do about it."""

    name: str
    advice: str


_CONVERT = "convert the model with llama.cpp's convert_hf_to_gguf.py, or save it as safetensors"
_UNPACK = "unpack it, and give the model that it holds"
_OLD = "convert it with llama.cpp's convert_llama_ggml_to_gguf.py, or download a GGUF version of the model"

# The first bytes of a file -> what it is. The older formats of ggml store their magic as a little-endian number, so
# that "ggjt" reads "tjgg".
_MAGICS: tuple[tuple[bytes, Kind], ...] = (
    (b"GGUF", Kind("a GGUF file", "name it .gguf")),
    (b"version https://git-lfs", Kind(
        "a Git LFS pointer, which stands for a file that was not downloaded",
        "run `git lfs pull` in its repository, or download the file itself",
    )),
    (b"lmgg", Kind("a model in the ggml format, which is older than GGUF", _OLD)),
    (b"fmgg", Kind("a model in the ggmf format, which is older than GGUF", _OLD)),
    (b"tjgg", Kind("a model in the ggjt format, which is older than GGUF", _OLD)),
    (b"algg", Kind(
        "a LoRA adapter in the ggla format, which is older than GGUF",
        "convert the original adapter with llama.cpp's convert_lora_to_gguf.py",
    )),
    (b"\x93NUMPY", Kind("a NumPy array", "load it with numpy.load, and write a model with quantreg.write")),
    (b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file, as Keras writes", _CONVERT)),
    (b"\x1f\x8b", Kind("a gzip archive", _UNPACK)),
    (b"\xfd7zXZ\0", Kind("an xz archive", _UNPACK)),
    (b"BZh", Kind("a bzip2 archive", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Kind("a Zstandard archive", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7-Zip archive", _UNPACK)),
    (b"Rar!\x1a\x07", Kind("a RAR archive", _UNPACK)),
)  # fmt: skip

LEGACY_IMATRIX: Kind = Kind("an importance matrix in the older .dat format", "give it as --imatrix, beside the model")
_PYTORCH = Kind("a PyTorch checkpoint", _CONVERT)
_FOLDER = (
    "make a GGUF model of the folder that holds it, its shards and config.json, with `quantreg convert FOLDER OUT.gguf`"
    "; the name of an index ends in .safetensors.index.json"
)
_SAFETENSORS = Kind(
    "a safetensors file",
    "make a GGUF model of it with `quantreg quantize FILE OUT.gguf F16` or, if its tensors have Hugging Face names, "
    "of the folder that holds its config.json with `quantreg convert FOLDER OUT.gguf`",
)


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of ``size`` bytes with these first bytes has the form of a safetensors file."""
    return len(head) > 8 and 2 <= int.from_bytes(head[:8], "little") <= size - 8 and head[8:9] == b"{"


def kind_of(head: bytes, size: int) -> Kind | None:
    """What a file is, told by its first bytes and its size; None if they say nothing."""
    if not size:
        return Kind("empty", "download or create it again")
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if looks_like_safetensors(head, size):
        return _SAFETENSORS
    if head.startswith(b"PK\3\4"):
        if b".pkl" in head[:512] or b"/byteorder" in head[:512]:
            return _PYTORCH
        if b".npy" in head[:512]:
            return Kind("a NumPy archive (.npz)", "load it with numpy.load, and write a model with quantreg.write")
        return Kind("a zip archive", _UNPACK)
    if re.match(rb"\x80[\2-\5][\x8a\x8c\x95}\](c]", head):
        return _PYTORCH._replace(name="a Python pickle, as PyTorch writes")
    if head[257:262] == b"ustar":
        return Kind("a tar archive", _UNPACK)
    if head[4:8] == b"TFL3":
        return Kind("a TensorFlow Lite model", _CONVERT)
    if re.match(rb"\x08[\1-\x20](\x12|\x1a|:)", head):  # protobuf: ir_version, then the name of the producer or a graph
        return Kind("an ONNX model", _CONVERT)
    if head[:1] == b"\n" and b"<unk>" in head[:64]:
        return Kind("a SentencePiece tokenizer", "give the model that it belongs to")
    if re.match(rb"..\0\0[\1-\xff]\0\0\0[a-z][\w.]+\.weight", head, re.DOTALL):
        return LEGACY_IMATRIX
    if not head.strip(b"\0"):
        return Kind("all zeros at its beginning", "the download or copy is incomplete: make it again")
    return _text(head)


def _text(head: bytes) -> Kind | None:
    """What a text is, or None if the bytes are not text."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else the last character is only cut off
            return None
        text = head.decode("utf-8-sig", "ignore")
    text = text.strip()
    if not text or any(c < " " and c not in "\t\r\n\f\x1b" for c in text):
        return None
    start = text[:200].lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<?xml", "<!--")):
        what = "an XML file" if start.startswith("<?xml") else "a web page"
        return Kind(what, "if a download failed, its text says why: read it, and download the file again")
    if text[0] in "{[":
        if '"weight_map"' in text or '"total_size"' in text:
            if '.bin"' in text:
                return Kind("the index of a PyTorch checkpoint", _CONVERT)
            return Kind("the index of a safetensors model", _FOLDER)
        if '"quantreg_plan"' in text:
            return Kind("a plan", "give it as --plan, beside the model")
        return Kind("a JSON file", "give the model itself, a GGUF or safetensors file")
    line = text.splitlines()[0]
    shown = repr(line if len(line) <= 40 else line[:40] + "...")
    return Kind(f"a text file that begins with {shown}", "download the file again, or give another one")


def read_head(path: str) -> tuple[bytes, int]:
    """The first bytes of a file, enough for `kind_of`, and its size. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        return file.read(HEAD), os.fstat(file.fileno()).st_size


def model_path(path: object) -> str:
    """The path of a model as a str: ``path`` itself or, for a folder that holds exactly one model, that model.

    Raises GGUFFormatError "not-a-file" for a folder without a model or with several, and for a pipe or device; and
    TypeError if ``path`` is not a path. A path that does not exist is returned as it is: opening it raises OSError.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        advice = "write it to a file first" if hasattr(path, "read") else "give a str, bytes or os.PathLike"
        raise TypeError(
            f"expected the path of a model, not a {type(path).__name__}: models are read in place: {advice}"
        )
    name = os.fsdecode(path)
    try:
        mode = os.stat(name).st_mode
    except OSError:
        if name == "-":
            raise _not_a_file(name, "would be standard input, which is not supported", _NO_PIPE) from None
        if re.match(r"[a-z][a-z0-9+.-]+://", name, re.ASCII | re.IGNORECASE):
            raise _not_a_file(name, "is a web address", "download the model, and give the path of the file") from None
        return name
    if stat.S_ISDIR(mode):
        return _model_in(name)
    if not stat.S_ISREG(mode):
        what = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise _not_a_file(name, f"is {what}, not a regular file", _NO_PIPE)
    return name


def piece_of(path: str) -> str | None:
    """What the name of a file says, with advice, if it is that of an unfinished file or of a piece; else None."""
    base = os.path.basename(path)
    if base.endswith(".partial") and os.path.exists(f"{path}.journal"):
        return "this is an unfinished output of quantreg: run the same command again with --resume"
    if base.endswith((".part", ".partial", ".incomplete", ".crdownload", ".download", ".aria2", ".tmp")):
        return "its name says that it is an unfinished download: finish it"
    found = re.fullmatch(r"(.*\.(?:gguf|safetensors))[-._](?:split|part)?[-._]?(?:[a-z]{1,2}|\d{1,5}(?:of\d+)?)", base)
    if found:
        return f"its name says that it is a piece of {found[1]}: join the pieces, for example with cat"
    return None


_NO_PIPE = "a model is read at many places, so write it to a file and give the path of that"


def _not_a_file(path: str, what: str, advice: str) -> GGUFFormatError:
    return GGUFFormatError("not-a-file", f"{what}: {advice}", path=path)


def _model_in(folder: str) -> str:
    names = sorted(os.listdir(folder))
    models = _models(folder, names)
    if len(models) > 1:
        # A projector or an importance matrix lies beside the model that it belongs to.
        models = [name for name in models if not re.search("mmproj|imatrix", name.lower())] or models
    if len(models) == 1 and not (models[0].startswith("adapter_model") and "adapter_config.json" in names):
        return os.path.join(folder, models[0])
    if len(models) > 1:
        found = ", ".join(models[:3]) + (", ..." if len(models) > 3 else "")
        raise _not_a_file(folder, f"is a folder with {len(models)} models ({found})", "give one of them")
    raise _not_a_file(folder, *_folder(folder, names))


def _models(folder: str, names: list[str]) -> list[str]:
    """One file for each model in a folder: an index, the first shard that is there, or a file that is not split."""
    indices = {name for name in names if name.endswith(".safetensors.index.json")}
    found: dict[str, str] = {}
    for name in names:
        if name in indices:
            found[name] = name
        elif name.lower().endswith((".gguf", ".safetensors")) and os.path.isfile(os.path.join(folder, name)):
            shard = SHARD_NAME.fullmatch(name)
            whole = name if shard is None else f"{shard['prefix']} of {shard['count']}{shard['suffix']}"
            if (f"{shard['prefix'] if shard else name.removesuffix('.safetensors')}.safetensors.index.json") in indices:
                continue  # the index stands for it
            found.setdefault(whole, name)
    return list(found.values())


def _folder(folder: str, names: list[str]) -> tuple[str, str]:
    """What a folder without a model is, and what to do."""
    has = set(names)
    if "adapter_config.json" in has:
        return "is a folder with an adapter", "merge the adapter into its model, or use convert_lora_to_gguf.py"
    if "model_index.json" in has:
        parts = [name for name in ("transformer", "unet") if name in has]
        return "is the folder of a diffusers pipeline", f"give the folder {' or '.join(parts) or 'transformer'} in it"
    if "snapshots" in has:
        return "is a folder of the Hugging Face cache", "give the folder of one revision, which is in its snapshots/"
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return "is a folder with a PyTorch checkpoint", _CONVERT
    if "config.json" in has:
        advice = "download its safetensors files as well"
        return "is a Hugging Face folder without weights", advice
    if any(name.endswith(".onnx") for name in names):
        return "is a folder with an ONNX model", _CONVERT
    inner = [name for name in names[:_MOST_LOOKED_INTO] if _has_model(os.path.join(folder, name))]
    return (
        "is a folder without a model" if names else "is an empty folder",
        f"give the folder {' or '.join(inner[:3])} in it" if inner else "give the path of a GGUF or safetensors file",
    )


def _has_model(folder: str) -> bool:
    try:
        return os.path.isdir(folder) and bool(_models(folder, sorted(os.listdir(folder))))
    except OSError:  # a folder that may not be read is none to give
        return False
