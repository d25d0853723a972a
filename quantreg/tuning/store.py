"""Where tensors wait that were encoded with feedback, until the output is written: a folder, or memory."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.errors import OutputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.parameters import Fitted

__all__ = ["Store"]


class Store(Mapping[str, Path]):
    """Encoded tensors by name, each in a file of its own in a folder. A file appears when it is complete.

    ``identity`` says what the tensors depend on. Tensors that were kept for something else are deleted; other files in
    the folder are not touched.
    """

    folder: Path

    def __init__(self, folder: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._listing = self.folder / "tensors.json"
        self._identity = json.loads(json.dumps(identity))
        self._files: dict[str, str] = {}
        self._facts: dict[str, Any] = {}
        found = self._read()
        if found.get("identity") == self._identity:
            self._files = {name: file for name, file in found["files"].items() if (self.folder / file).exists()}
            self._facts = {name: found["facts"].get(name) for name in self._files}
        else:
            self.remove()
        self.folder.mkdir(exist_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._listing.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # a machine that lost power may leave an empty listing
            return {}
        whole = isinstance(found, dict) and all(isinstance(found.get(key), dict) for key in ("files", "facts"))
        return found if whole else {}

    def put(self, name: str, data: "NDArray[np.uint8]", parameters: "Fitted | None" = None, facts: Any = None) -> None:
        """Keep the bytes of a tensor, the parameters that its type was fitted to, and ``facts``, ready for JSON.

        Raises OutputError if they cannot be written, such as for want of space. The tensor is then not in the store.
        """
        try:
            self._put(name, data, parameters, facts)
        except OSError as error:
            raise OutputError(
                f"{self.folder}: cannot keep {name} until the output is written, which takes {data.nbytes:,} bytes "
                f"({error.strerror}): free some space, or write the output to another disk"
            ) from None

    def _put(self, name: str, data: "NDArray[np.uint8]", parameters: "Fitted | None", facts: Any) -> None:
        used = set(self._files.values())
        file = next(f"{i}.bin" for i in range(len(used) + 1) if f"{i}.bin" not in used)
        with open(self.folder / file, "wb") as out:
            out.write(np.ascontiguousarray(data).data)
            out.flush()
            os.fsync(out.fileno())
        (self.folder / f"{file}.npz").unlink(missing_ok=True)
        if parameters:
            arrays: dict[str, Any] = {key: np.asarray(value) for key, value in parameters.items()}
            np.savez(self.folder / f"{file}.npz", **arrays)
        files, every = self._files | {name: file}, self._facts | {name: facts}
        new = self._listing.with_suffix(".new")
        new.write_text(json.dumps({"identity": self._identity, "files": files, "facts": every}))
        os.replace(new, self._listing)
        self._files, self._facts = files, every

    def facts(self, name: str) -> Any:
        """What was kept with a tensor."""
        return self._facts[name]

    def parameters(self, name: str) -> "Fitted | None":
        """The parameters of a tensor, or None if its type has none."""
        path = self.folder / f"{self._files[name]}.npz"
        if not path.exists():
            return None
        with np.load(path) as found:
            return {key: found[key] for key in found.files}

    def __getitem__(self, name: str) -> Path:
        return self.folder / self._files[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def remove(self) -> None:
        """Delete the tensors, and the folder unless something else is in it."""
        for pattern in ("tensors.json", "tensors.new", "[0-9]*.bin", "[0-9]*.bin.npz"):
            for path in self.folder.glob(pattern):
                path.unlink()
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()
        self._files, self._facts = {}, {}
