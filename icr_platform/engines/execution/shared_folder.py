"""Finished parts on their way from workers to the driver, where the two share an object store but not a file system.

A worker puts a part's bytes at `URL/FINGERPRINT/ARTIFACT/part-00000.parquet`; the driver copies them into the artifact's folder,
and removes the remote one when it is done. The next driver finds and uses what a killed one left. `s3://`, `gs://`,
`abfs://` and `hdfs://` go through pyarrow, any other scheme through fsspec; credentials and endpoints come from the environment
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, ...), never from the URL.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from icr_platform.core.artifacts import ArtifactWriter, atomic_path
from icr_platform.core.errors import IcrError, InputError


def check_shared_folder(url: str) -> None:
    """Raise InputError unless `url` is an absolute path, or an address without a secret in it. Connects to nothing."""
    if "://" not in url and not url.startswith("/"):
        raise InputError(
            f"config: field 'shared_folder' is {url!r}; give an address such as s3://bucket/folder, or an absolute path"
        )
    if "@" in url.partition("://")[2].partition("/")[0] and not url.startswith(("abfs://", "abfss://")):
        raise InputError("config: field 'shared_folder' holds a secret; put credentials into the environment")


class SharedFolder:
    """The parts below a URL.

    Raises:
        InputError: the scheme is not known here, or its library is not installed.
        IcrError (from every method): the store refuses or does not answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, self._root = _open(url)

    def finished(self, writer: ArtifactWriter) -> set[int]:
        """Numbers of the parts that wait there to be collected."""
        from pyarrow import fs

        with self._explained():
            found = self._files.get_file_info(fs.FileSelector(self._folder(writer), allow_not_found=True))
        names = (Path(info.path) for info in found if info.type == fs.FileType.File)
        return {int(name.stem.removeprefix("part-")) for name in names if name.suffix == ".parquet"}

    def put(self, writer: ArtifactWriter, part: int) -> None:
        """Upload a part that `writer` has. Whatever the store is, only a whole file ever gets the part's name."""
        path = writer.part_path(part)
        target = f"{self._folder(writer)}/{path.name}"
        temporary = f"{target}.{uuid.uuid4().hex}.tmp"
        with self._explained():
            self._files.create_dir(self._folder(writer), recursive=True)
            with self._files.open_output_stream(temporary) as stream:
                stream.write(path.read_bytes())
            self._files.move(temporary, target)

    def discard(self, writer: ArtifactWriter, part: int) -> None:
        """Remove a part, if it is there."""
        target = f"{self._folder(writer)}/{writer.part_path(part).name}"
        with self._explained():
            if self._exists(target):
                self._files.delete_file(target)

    def collect(self, writer: ArtifactWriter, part: int) -> bool:
        """Copy a part into the artifact's folder, byte for byte; False when it is not there."""
        path = writer.part_path(part)
        source = f"{self._folder(writer)}/{path.name}"
        with self._explained():
            if not self._exists(source):
                return False
            with atomic_path(path) as temporary, self._files.open_input_stream(source) as stream:
                temporary.write_bytes(stream.read())
        return True

    def clear(self, writers: Sequence[ArtifactWriter]) -> None:
        """Remove what is left of artifacts whose parts are all collected."""
        with self._explained():
            for writer in writers:
                if self._exists(self._folder(writer)):
                    self._files.delete_dir(self._folder(writer))

    def _exists(self, path: str) -> bool:
        from pyarrow import fs

        return bool(self._files.get_file_info(path).type != fs.FileType.NotFound)

    def _folder(self, writer: ArtifactWriter) -> str:
        return f"{self._root}/{writer.fingerprint}/{writer.folder.name}"

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise IcrError(
                f"{self.url}: {reason}; check the address, the credentials and the right to read, write and delete there"
            ) from error


def _open(url: str) -> tuple[Any, str]:
    """A pyarrow file system and the path in it."""
    import fsspec
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    try:
        if url.startswith("s3://") and endpoint:  # otherwise pyarrow asks Amazon for the bucket's region
            return fs.S3FileSystem(endpoint_override=endpoint), url.removeprefix("s3://").rstrip("/")
        try:
            files, root = fs.FileSystem.from_uri(url)
        except pa.ArrowInvalid:  # a scheme that pyarrow does not know
            remote, root = fsspec.core.url_to_fs(url)
            files = fs.PyFileSystem(fs.FSSpecHandler(remote))
    except (OSError, pa.ArrowException, ImportError, ValueError) as error:
        raise InputError(f"{url}: cannot be used ({' '.join(str(error).split())}); check 'shared_folder'") from error
    return files, root.rstrip("/")
