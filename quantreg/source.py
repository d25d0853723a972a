"""Reading the data of a model piece by piece, without mapping it."""

import os
import threading

from quantreg import gguf
from quantreg.errors import GGUFFormatError, PlanError
from quantreg.tensor import layout_with_plugins

__all__ = ["DataFile", "Source", "open_source", "stamp_of"]


class Source:
    """A GGUF model to quantize: the checked headers of all its shards, and a way to read tensor data.

    ``metadata`` and ``tensors`` (TensorInfo, in file order) are what `recipes.plan` takes; ``paths`` are the shards,
    ``size`` their bytes together. A context manager: the files are open inside it. Read with pread, so that memory does
    not grow with the file and a file that shrinks gives an error instead of a crash.
    """

    def __init__(self, path):
        self.headers = gguf.read_shards(path, layout=layout_with_plugins)
        self.metadata = self.headers[0].metadata
        self.tensors = tuple(info for header in self.headers for info in header.tensors)
        self.paths = [header.path for header in self.headers]
        self.size = sum(header.file_size for header in self.headers)
        self.warnings = [f"{header.path}: {text}" for header in self.headers for text in header.warnings]
        self._place = {
            info.name: (shard, header.data_offset + info.offset)
            for shard, header in enumerate(self.headers)
            for info in header.tensors
        }
        self._files, self._by_path = [], {}

    def place(self, info) -> tuple[int, int]:
        """(number of the file in ``paths``, position of the tensor's data in it)."""
        return self._place[info.name]

    def __enter__(self):
        self._files = []
        try:
            for path in self.paths:
                self._files.append(DataFile(path))
            self._by_path = {os.path.abspath(file.path): file for file in self._files}
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        for file in self._files:
            file.close()
        self._files, self._by_path = [], {}

    def file(self, path) -> "DataFile":
        """The open file of this absolute path, one of ``paths``."""
        return self._by_path[path]

    def read_into(self, info, offset, buffer) -> None:
        """Fill the writable buffer with the bytes of a tensor from `offset` on.

        GGUFFormatError "tensor-past-end" if the file has shrunk since its header was read.
        """
        shard, start = self._place[info.name]
        self._files[shard].read_into(start + offset, buffer, info.name)


def open_source(path, names=None):
    """The model at path: a GGUF file, any shard of one, a safetensors file or the index of several.

    ``names`` maps the names of a safetensors file to GGUF's, see `safetensors.SafetensorsSource`.
    """
    if os.fspath(path).endswith((".safetensors", ".safetensors.index.json")):
        from quantreg.safetensors import SafetensorsSource

        return SafetensorsSource(path, names)
    if names is not None:
        raise PlanError(f"{os.fspath(path)}: names are for safetensors files, tensors of a GGUF file have theirs")
    return Source(path)


def stamp_of(path) -> tuple[int, int]:
    """(size, time of the last change in ns): tells whether a file is still the one it was."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


class DataFile:
    """An open file that threads read from at once. With ``stamp`` it must still be the file that it was then."""

    def __init__(self, path, stamp=None):
        if stamp is not None and stamp_of(path) != tuple(stamp):
            raise GGUFFormatError("source-changed", "the file has changed since the run began", path=path)
        self.path = path
        self._lock = threading.Lock()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115

    def read_into(self, position, buffer, name) -> None:
        """Fill the buffer from this position on; ``name`` is the tensor, for messages."""
        view = memoryview(buffer).cast("B")
        while view:
            count = self._read_at(view, position)
            if count == 0:
                raise GGUFFormatError(
                    "tensor-past-end", f"data of tensor {name!r}: the file has shrunk while it was read",
                    offset=position, field=name, path=self.path,
                )  # fmt: skip
            view = view[count:]
            position += count

    def _read_at(self, view, position):
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [view], position)
        with self._lock:  # where there is no pread, reading moves a position that threads share
            self._file.seek(position)
            return self._file.readinto(view)

    def close(self):
        self._file.close()

    def __del__(self):
        if hasattr(self, "_file"):
            self.close()
