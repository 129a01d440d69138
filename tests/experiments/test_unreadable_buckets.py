"""A bucket that is missing or may not be read is one sentence of every program, not a path that looks empty."""

import dataclasses

import pytest

import pixelbert_jax
from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.paths import as_path, check_readable
from data_pipelines.storage.records import open_records
from experiments.run.validation import run_folder, validate
from tests.bucket_fixtures import forget, gs_bucket, s3_bucket
from tests.bucket_proxy import bucket_proxy
from tests.bucket_server import bucket_server, environment
from tests.experiments.tiny_config import get_config

REMEDY = "check its name, that you are signed in, and that your account may use it"


def with_data_dir(path):
    config = get_config()
    validate(dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=path)))


USES = {
    "prepare --data_dir": lambda path, here: prepare("shapes", path),
    "prepare --source_dir": lambda path, here: prepare("image_text", here, path),
    "prepare --regions": lambda path, here: prepare("shapes", here, options={"regions": path}),
    "records": lambda path, here: open_records(path, "shapes", "train"),
    "load": lambda path, here: pixelbert_jax.load(path),
    "data.data_dir": lambda path, here: with_data_dir(path),
    "workdir": lambda path, here: run_folder(path),
}


@pytest.fixture(scope="module")
def server():
    with bucket_server() as url, bucket_proxy(url) as (proxy, faults), pytest.MonkeyPatch.context() as patch:
        for name, value in environment(proxy).items():
            patch.setenv(name, value)
        forget()
        yield faults
    forget()


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("bucket", "refused", "why"), [("nobucket", (), "there is no such bucket"), ("bucket", ("GET",), "Forbidden.*")]
)
def test_gs(server, tmp_path, monkeypatch, use, bucket, refused, why):
    forget()
    monkeypatch.setattr(server, "refused", refused)
    with pytest.raises(DataError, match=rf"^gs://{bucket}/x: gs://{bucket} cannot be reached \({why}\); {REMEDY}\.$"):
        USES[use](f"gs://{bucket}/x", tmp_path / "data")
    assert not [*tmp_path.iterdir()]


def test_s3(tmp_path):
    with s3_bucket() as bucket:
        check_readable(as_path(f"{bucket}/x"))
        for use in ("prepare --source_dir", "records", "load", "data.data_dir"):
            with pytest.raises(DataError, match=rf"s3://nobucket cannot be reached \(.*\); {REMEDY}"):
                USES[use]("s3://nobucket/x", tmp_path / "data")


def test_an_object_is_readable_where_listing_is_refused(monkeypatch):
    with gs_bucket() as bucket:
        path = as_path(f"{bucket}/vocab.txt")
        path.write_text("red\n")
        bucket_path = type(path)

        def exists(self):
            if self == bucket_path(bucket):
                raise PermissionError("no permission to list")
            return True

        monkeypatch.setattr(bucket_path, "exists", exists)
        check_readable(path)
