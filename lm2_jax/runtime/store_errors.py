"""What the clients of a store raise, as an OSError with its cause in a few words."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from lm2_jax.runtime.clients import ATTEMPTS


@contextlib.contextmanager
def translated(path: object) -> Iterator[None]:
    """Raises what the clients raise as an OSError with a cause in a few words and the URL.

    Args:
      path: that is named; its text is the URL.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError) as error:
        code = error.errno or (errno.EEXIST if isinstance(error, FileExistsError)
                               else errno.ENOENT)
        raise type(error)(code, os.strerror(code), str(path)) from error
    except Exception as error:
        if not is_of_store(error):
            raise
        number = errno.EACCES if is_refusal(error) else errno.EIO
        raise OSError(number, cause(error), str(path)) from error


def is_of_store(error: BaseException) -> bool:
    """Whether a client of a store raised an exception because of the store or the network."""
    modules = ("gcsfs", "s3fs", "aiohttp", "aiobotocore", "botocore", "google", "requests",
               "urllib3", "fsspec", "asyncio", "ssl")
    return (isinstance(error, (OSError, TimeoutError))
            or type(error).__module__.split(".")[0] in modules
            or isinstance(error, ValueError) and str(error).startswith("Bad Request"))


def is_refusal(error: BaseException) -> bool:
    """Whether the store refused a request for want of a right or of valid credentials."""
    return any(word in text_of(error) for word in (
        "Forbidden", "403", "401", "AccessDenied", "Access Denied", "Credentials", "credentials",
        "ExpiredToken", "PERMISSION_DENIED", "UNAUTHENTICATED", "expired"))


def is_conflict(error: BaseException) -> bool:
    """Whether S3 refused a conditional write, since the object has another version."""
    return bool(re.search("PreconditionFailed|ConditionalRequestConflict", text_of(error)))


def text_of(error: BaseException) -> str:
    """The messages of an exception and of those that caused it."""
    texts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(texts) < 4:
        texts.append(f"{type(seen).__name__}: {seen}")
        seen = seen.__cause__ or seen.__context__
    return " ".join(texts)


def cause(error: BaseException) -> str:
    """Why a request failed, in a few words."""
    text = text_of(error)
    if re.search(r"xpired|Invalid Credentials|\b401\b|UNAUTHENTICATED|RefreshError", text):
        return "the store does not accept the credentials, or these have expired (401)"
    if re.search(r"[Nn]o ?[Cc]redentials|DefaultCredentialsError|Unable to locate cred", text):
        return "there are no credentials for the store"
    if re.search(r"Forbidden|\b403\b|Access ?Denied|PERMISSION_DENIED", text):
        return "these credentials do not have the right (403)"
    if re.search(r"NoSuchBucket|bucket does not exist", text):
        return "there is no such bucket"
    if found := re.search(r"\b(429|SlowDown|Too Many Requests|RESOURCE_EXHAUSTED)\b", text):
        return f"the store asks for fewer requests (429); gave up after {ATTEMPTS} attempts"
    if found := re.search(r"\b(50[0-4])\b", text):
        return f"the store answers {found[1]}; gave up after {ATTEMPTS} attempts"
    if re.search(r"InternalError|ServiceUnavailable|UNAVAILABLE|ProxyError", text):
        return f"the store is not available; gave up after {ATTEMPTS} attempts"
    if re.search(r"[Cc]onnect|[Tt]imeout|[Dd]isconnected|payload|DEADLINE", text):
        return f"the store cannot be reached; gave up after {ATTEMPTS} attempts"
    # TensorStore names what it did from the outside to the inside.
    inner = re.sub(r" *\[.*", "", str(error).replace("\n", " "))
    return f"{type(error).__name__}: {inner[-300:]}"
