#!/usr/bin/env bash
# Writes launch/requirements-tpu.txt and -cuda.txt anew: the versions of the container images, with
# their hashes. Needs uv. With --upgrade it takes the newest versions that setup.py allows.
set -euo pipefail
cd "$(dirname "$0")/.."
for extra in tpu cuda; do
  uv pip compile --quiet setup.py "--extra=$extra" --extra=gcs --extra=s3 \
    --python-version=3.12 --python-platform=x86_64-manylinux_2_31 --generate-hashes --no-annotate \
    --custom-compile-command=launch/lock.sh "--output-file=launch/requirements-$extra.txt" "$@"
done
