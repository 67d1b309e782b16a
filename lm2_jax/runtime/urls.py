"""Which URLs are paths in a bucket, and the libraries that they need."""

import importlib.util
import re

from lm2_jax.errors import UserError

LIBRARIES = {"gs": "gcsfs", "s3": "s3fs"}  # that the schemes need; extras are `gcs` and `s3`
EXTRAS = {"gs": "gcs", "s3": "s3"}
BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


def check(scheme: str, path: str, url: str) -> None:
    """Raises a UserError if a URL is no usable path in a bucket, or its library is not installed.

    Args:
      scheme, path: what is before and after the "://" of `url`.
    """
    if scheme not in LIBRARIES:
        raise UserError(f"{url} is a URL of a kind that is not supported; give a local path, "
                        "gs://BUCKET/... or s3://BUCKET/...")
    bucket, *names = path.rstrip("/").split("/")
    if not BUCKET.fullmatch(bucket):
        raise UserError(f"{url}: {bucket!r} cannot be the name of a bucket, which has 3 or more "
                        "lower-case letters, digits, dots, dashes and underscores")
    if bad := [name for name in names if name in ("", ".", "..")]:
        raise UserError(f"{url} has the part {bad[0]!r}, which no name in a bucket may have here")
    if re.search(r"[\x00-\x1f\x7f]", path):
        raise UserError(f"{url!r} has a control character; give a path without one")
    if importlib.util.find_spec(LIBRARIES[scheme]) is None:
        raise UserError(f"{url} needs the library {LIBRARIES[scheme]}: pip install "
                        f"'lm2_jax[{EXTRAS[scheme]}]'")
