"""The GGUF container: headers in and out. Names, shapes, type ids and bytes; knows no codec."""

from quantreg.gguf.atomic import AtomicFile
from quantreg.gguf.layout import REMOVED_TYPES, TYPES, TypeLayout, layout
from quantreg.gguf.metadata import Metadata, Value
from quantreg.gguf.partial import PartialFile, journal_path, partial_path
from quantreg.gguf.reader import Header, TensorInfo, read_header
from quantreg.gguf.rules import DEFAULT_ALIGNMENT, padded
from quantreg.gguf.splits import MAX_SHARDS, SPLIT_KEYS, read_shards, shard_path, split_values
from quantreg.gguf.writer import HeaderEdit, encode_header

__all__ = [
    "DEFAULT_ALIGNMENT",
    "MAX_SHARDS",
    "REMOVED_TYPES",
    "SPLIT_KEYS",
    "TYPES",
    "AtomicFile",
    "Header",
    "HeaderEdit",
    "Metadata",
    "PartialFile",
    "TensorInfo",
    "TypeLayout",
    "Value",
    "encode_header",
    "journal_path",
    "layout",
    "padded",
    "partial_path",
    "read_header",
    "read_shards",
    "shard_path",
    "split_values",
]
