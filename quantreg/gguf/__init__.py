"""The GGUF container: reading and writing headers. It knows names, shapes, type ids and sizes, but not codecs."""

from quantreg.ggml import REMOVED_TYPES, SPLIT_KEYS, TYPES, TypeLayout, layout_of
from quantreg.gguf.metadata import Metadata, Value
from quantreg.gguf.reader import Header, TensorInfo, read_header
from quantreg.gguf.rules import DEFAULT_ALIGNMENT, LONG_TENSOR_NAME, MAX_DIMS, padded
from quantreg.gguf.splits import MAX_SHARDS, read_shards, shard_path, split_values
from quantreg.gguf.writer import HeaderEdit, encode_header

__all__ = [
    "DEFAULT_ALIGNMENT",
    "LONG_TENSOR_NAME",
    "MAX_DIMS",
    "MAX_SHARDS",
    "REMOVED_TYPES",
    "SPLIT_KEYS",
    "TYPES",
    "Header",
    "HeaderEdit",
    "Metadata",
    "TensorInfo",
    "TypeLayout",
    "Value",
    "encode_header",
    "layout_of",
    "padded",
    "read_header",
    "read_shards",
    "shard_path",
    "split_values",
]
