"""Reading the data of a model piece by piece, without mapping it."""

import os
import threading

from quantreg import gguf
from quantreg.errors import GGUFFormatError
from quantreg.tensor import layout_with_plugins

__all__ = ["Source"]


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
        self._files = []

    def __enter__(self):
        self._files = []
        try:
            for path in self.paths:
                self._files.append(_File(path))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        for file in self._files:
            file.close()
        self._files = []

    def read_into(self, info, offset, buffer) -> None:
        """Fill the writable buffer with the bytes of a tensor from `offset` on.

        GGUFFormatError "tensor-past-end" if the file has shrunk since its header was read.
        """
        shard, start = self._place[info.name]
        view = memoryview(buffer).cast("B")
        position = start + offset
        while view:
            count = self._files[shard].read_at(view, position)
            if count == 0:
                raise GGUFFormatError(
                    "tensor-past-end", f"data of tensor {info.name!r}: the file has shrunk while it was read",
                    offset=position, field=info.name, path=self.paths[shard],
                )  # fmt: skip
            view = view[count:]
            position += count


class _File:
    def __init__(self, path):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()

    def read_at(self, view, position):
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [view], position)
        with self._lock:  # where there is no pread, reading moves a position that threads share
            self._file.seek(position)
            return self._file.readinto(view)

    def close(self):
        self._file.close()
