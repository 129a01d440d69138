"""Objects of a bucket that are written only where a stated version is there, so that of two writers one succeeds."""

import datetime
import email.utils
import json
import uuid
from typing import Any, NamedTuple, Protocol

from etils import epath

_ANSWER_WITHIN = 20.0  # seconds, with gcsfs's own tries
_PRECONDITION = (404, 409, 412)  # what s3:// answers where another version is there


class Version(NamedTuple):
    """A version of an object: its name in the storage, its age in seconds by the server's clock, and its metadata."""

    name: str
    age: float
    metadata: dict[str, str]


class VersionedObject(Protocol):
    """One object. Errors are those of the libraries."""

    def read(self) -> Version | None:
        """The version that is there; None if there is no object."""

    def write(self, version: str | None, text: str, metadata: dict[str, str]) -> str:
        """Replace that version (None: no object); returns the new one. FileExistsError if another one is there."""

    def delete(self, version: str) -> None:
        """Delete that version; an error if another one is there."""


def versioned_object(path: epath.Path) -> VersionedObject | None:
    """The object of a path in gs:// or s3://; None where the storage has no such writes."""
    scheme, _, name = str(path).partition("://")
    kind = {"gs": _GoogleObject, "s3": _AmazonObject}.get(scheme)
    return kind(*name.split("/", 1)) if kind else None


class _GoogleObject:
    """The version is the object's generation. gcsfs states none but "no object", so its `call` sends the requests."""

    def __init__(self, bucket: str, name: str) -> None:
        import fsspec  # not needed without a bucket

        self._files, self._bucket, self._name = fsspec.filesystem("gs"), bucket, name

    def read(self) -> Version | None:
        try:
            headers, answer = self._call("GET", "b/{}/o/{}", self._bucket, self._name)
        except FileNotFoundError:
            return None
        entry = json.loads(answer)
        updated = datetime.datetime.fromisoformat(entry["updated"])
        return Version(entry["generation"], _age(headers["Date"], updated), entry.get("metadata", {}))

    def write(self, version: str | None, text: str, metadata: dict[str, str]) -> str:
        entry = {"name": self._name, "metadata": metadata}
        parts = ("application/json", json.dumps(entry)), ("text/plain", text)
        body = "".join(f"--==\r\nContent-Type: {kind}\r\n\r\n{part}\r\n" for kind, part in parts) + "--==--\r\n"
        _, answer = self._call(
            "POST",
            self._files.base.replace("/storage/", "/upload/storage/") + "b/{}/o",
            self._bucket,
            uploadType="multipart",
            ifGenerationMatch=version or "0",
            headers={"Content-Type": 'multipart/related; boundary="=="'},
            data=body.encode(),
        )
        return json.loads(answer)["generation"]

    def delete(self, version: str) -> None:
        self._call("DELETE", "b/{}/o/{}", self._bucket, self._name, ifGenerationMatch=version)

    def _call(self, *args: str, **kwargs: Any) -> tuple[Any, bytes]:
        return self._files.call(*args, timeout=_ANSWER_WITHIN, **kwargs)


class _AmazonObject:
    """The version is the ETag, a checksum of the content; so each write has a content of its own."""

    def __init__(self, bucket: str, name: str) -> None:
        import fsspec

        self._files, self._where = fsspec.filesystem("s3"), {"Bucket": bucket, "Key": name}

    def read(self) -> Version | None:
        try:
            found = self._files.call_s3("head_object", **self._where)
        except FileNotFoundError:
            return None
        date = found["ResponseMetadata"]["HTTPHeaders"]["date"]
        return Version(found["ETag"], _age(date, found["LastModified"]), found["Metadata"])

    def write(self, version: str | None, text: str, metadata: dict[str, str]) -> str:
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        body = f"{text}{uuid.uuid4().hex}\n".encode()
        try:
            return self._files.call_s3("put_object", Body=body, Metadata=metadata, **condition, **self._where)["ETag"]
        except OSError as error:
            answer = getattr(error.__cause__, "response", {})
            code = answer.get("Error", {}).get("Code")
            if code != "NoSuchBucket" and answer.get("ResponseMetadata", {}).get("HTTPStatusCode") in _PRECONDITION:
                raise FileExistsError(str(error)) from error
            raise

    def delete(self, version: str) -> None:
        self._files.call_s3("delete_object", IfMatch=version, **self._where)


def _age(now: str, written: datetime.datetime) -> float:
    return (email.utils.parsedate_to_datetime(now) - written).total_seconds()
