"""The clients of Google Cloud Storage and S3, configured once for a process."""

import functools
import logging
import os
import warnings
from typing import Any

ATTEMPTS = 6  # of each request, with pauses that double; about 30 seconds in all
REQUEST_SECONDS = 120  # after which a request has failed


@functools.cache
def store(scheme: str) -> Any:
    """The fsspec file system of a scheme; it keeps no listings, which others may change."""
    configure(scheme)
    import fsspec

    return fsspec.filesystem(scheme)


@functools.cache
def configure(scheme: str) -> None:
    """Sets what every client of a kind of store in this process needs, also those of orbax."""
    # etils would prefer TensorFlow, where it is installed.
    os.environ.setdefault("EPATH_USE_TF", "false")
    import fsspec
    import fsspec.config

    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "gs":
        import gcsfs.core

        if "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT" not in os.environ:
            # Its other class asks about the kind of each bucket; orbax does that itself.
            for protocol in ("gs", "gcs"):
                fsspec.register_implementation(protocol, gcsfs.core.GCSFileSystem, clobber=True)
        options["requests_timeout"] = REQUEST_SECONDS
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            options["token"] = "anon"
    else:
        import s3fs

        s3fs.S3FileSystem.retries = 1  # it would repeat what botocore repeats
        options |= {"default_fill_cache": False, "config_kwargs": {
            "retries": {"total_max_attempts": ATTEMPTS, "mode": "standard"},
            "connect_timeout": 20, "read_timeout": REQUEST_SECONDS}}
    fsspec.config.conf[scheme] = options | fsspec.config.conf.get(scheme, {})
    if not os.environ.get("LM2_TRACEBACK"):
        # They log a traceback beside the exception that they raise.
        for name in ("gcsfs", "s3fs", "fsspec", "google.auth", "aiobotocore", "botocore"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", "Your application has authenticated", UserWarning)
