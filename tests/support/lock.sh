#!/bin/sh
# Make requirements.lock again; needs uv (pip install uv) and PyPI.
set -eu
cd "$(dirname "$0")/../.."
inputs=$(mktemp -d)
trap 'rm -r "$inputs"' EXIT
python3 - >"$inputs/requirements.in" <<'PYTHON'
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
asked = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
print(*(line for line in asked if not line.startswith("torch")), sep="\n")
PYTHON
grep -v '^torch==' constraints.txt >"$inputs/constraints.txt"
grep '^#' requirements.lock >"$inputs/head"
uv pip compile --quiet --no-header --no-annotate --generate-hashes --universal --python-version 3.11 \
    --constraint "$inputs/constraints.txt" "$inputs/requirements.in" --output-file "$inputs/lock" >/dev/null
cat "$inputs/head" "$inputs/lock" >requirements.lock
