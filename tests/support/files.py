"""What lies in a folder."""

import shutil
from pathlib import Path


def files_of(folder: Path, *, hidden: bool = True) -> dict[str, bytes]:
    """Content of each file by its path within `folder`. hidden: whether files such as `.lock` count."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and (hidden or path.name[0] != "."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def with_template(model: Path, folder: Path, template: str) -> Path:
    """A copy of a model with another chat template."""
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder
