"""Write a new plugin from a template: `quantreg plugins new`."""

import os
from collections.abc import Sequence
from pathlib import Path

from quantreg.scaffold.names import free_type_id
from quantreg.scaffold.project import Kind, Project

__all__ = ["Project", "free_type_id", "new_plugin"]


def new_plugin(
    name: str,
    folder: str | os.PathLike[str] = ".",
    *,
    kind: Kind = "python",
    type_names: Sequence[str] = (),
    type_id: int | None = None,
    block_size: int | None = None,
    row_header_size: int | None = None,
) -> Path:
    """Write a working plugin to folder/name, ready to be installed, and return its folder.

    ``name`` is the name of the distribution, such as "my-q3": the package is then my_q3 and the type MY_Q3. ``kind`` is
    "python" for a codec in NumPy, "cython" for a compiled one, "recipe" for a file type, or "hook" for importance
    scores. ``type_names`` names the types if they are several or differ from the project. The default ``type_id``
    follows from the name of the type (see `free_type_id`); several types get consecutive ids from it. ``block_size`` is
    a multiple of 8 from 16 to 256 (default: 32), ``row_header_size`` 0 or at least 4 bytes (default: 0).

    If ``kind`` is "cython" and the type is installed as a plugin in NumPy, the new plugin is its twin:
    folder/name-cython has the same type with the same layout, and replaces the slower codec.

    Raises PluginError for a name, an id or a layout that cannot be used, and OutputError if the folder exists.
    """
    return Project.design(name, kind, type_names, type_id, block_size, row_header_size).write(folder)
