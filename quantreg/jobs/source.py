"""Reading the data of a model piece by piece, without mapping it."""

import os

from quantreg import gguf
from quantreg.errors import GGUFFormatError
from quantreg.registry import layout_of
from quantreg.storage import PositionedFile

__all__ = ["DataFile", "Source", "stamp_of"]


class Source:
    """A GGUF model to quantize: the checked headers of all its shards, and a way to read tensor data.

    ``metadata`` and ``tensors`` (TensorInfo, in file order) are what `recipes.plan` takes; ``paths`` are the shards,
    ``size`` their bytes together. A context manager: the files are open inside it. Read with pread, so that memory does
    not grow with the file and a file that shrinks gives an error instead of a crash.
    """

    def __init__(self, path):
        self.headers = gguf.read_shards(path, layout=layout_of)
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
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._positioned = PositionedFile(self._file.fileno())

    def read_into(self, position, buffer, name) -> None:
        """Fill the buffer from this position on; ``name`` is the tensor, for messages."""
        view = memoryview(buffer).cast("B")
        count = self._positioned.read_into(view, position)
        if count < len(view):
            raise GGUFFormatError(
                "tensor-past-end", f"data of tensor {name!r}: the file shrank while it was read",
                offset=position + count, field=name, path=self.path,
            )  # fmt: skip

    def close(self):
        self._file.close()

    def __del__(self):
        if hasattr(self, "_file"):
            self.close()
