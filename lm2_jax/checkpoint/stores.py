"""Lets orbax save to buckets: S3 beside Google Cloud Storage, with retries that end."""

import functools
import os
from pathlib import Path
from typing import Any

from etils import epath
from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from lm2_jax.errors import UserError
from lm2_jax.runtime import clients
from lm2_jax.runtime.buckets import BucketPath

# TensorStore's own limit is 32 attempts, which take a quarter of an hour.
RETRIES = {"max_retries": clients.ATTEMPTS - 1, "initial_delay": "1s", "max_delay": "16s"}
SCHEMES = ("gs://", "s3://")


def path_for_orbax(path: Path) -> Any:
    """The path in the type that orbax takes for it.

    Raises:
      UserError: if this version of orbax cannot save to its store.
    """
    if not isinstance(path, BucketPath):
        return path
    clients.configure(str(path).partition(":")[0])
    _extend_orbax()
    return epath.Path(str(path))


@functools.cache
def _extend_orbax() -> None:
    """Replaces the functions of orbax that choose a driver of TensorStore.

    orbax knows gs:// alone, and would take s3://BUCKET for a path on the local disk. There is no
    public way to give it a driver; TensorStore itself has one for S3. Where orbax decides by the
    scheme how it commits and deletes, S3 is to it like Google Cloud Storage.
    """
    names = {gcs_utils: ("_GCS_PATH_PREFIX", "get_kvstore_for_gcs"),
             tensorstore_utils: ("_use_gcs_driver", "_normalize_path")}
    if missing := [name for module, wanted in names.items() for name in wanted
                   if not hasattr(module, name)]:
        raise UserError("this version of orbax-checkpoint cannot save to a bucket here (it lacks "
                        f"{missing[0]}); install 0.12.8")
    gcs_utils._GCS_PATH_PREFIX = SCHEMES
    gcs_utils.get_kvstore_for_gcs = kvstore
    tensorstore_utils._use_gcs_driver = lambda directory: directory.startswith(SCHEMES)
    tensorstore_utils._normalize_path = normalized


def normalized(path: str) -> str:
    scheme, separator, rest = path.partition("://")
    return f"{scheme}://{os.path.normpath(rest)}" if separator else os.path.normpath(path)


def kvstore(path: str) -> dict[str, Any]:
    """TensorStore's specification of a key-value store below a URL."""
    scheme, _, rest = path.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme == "gs":
        return {"driver": os.environ.get("TENSORSTORE_GCS_BACKEND", "gcs"), "bucket": bucket,
                "path": key, "gcs_request_retries": RETRIES}
    env = os.environ
    spec: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": key,
                            "s3_request_retries": RETRIES}
    if "AWS_ACCESS_KEY_ID" in env:  # the default reports each file that it does not find
        spec["aws_credentials"] = {"type": "environment"}
    if endpoint := env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL"):
        spec |= {"endpoint": endpoint,
                 "aws_region": env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION", "us-east-1")}
    return spec
