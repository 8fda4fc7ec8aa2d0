#!/usr/bin/env bash
# Fetch what benchmarks/gpu.sh needs besides torch, torchvision, pandas, pyarrow, scikit-learn, scipy, safetensors,
# pyyaml, rich, click, matplotlib, jinja2, psutil, filelock, pytest, pytest-timeout and hypothesis, as wheels for Linux and Python 3.12,
# into the folder .gpu/wheels (ignored by Git), which travels to a machine without a network.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .gpu/wheels
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
  --constraint requirements.lock -d .gpu/wheels \
  pydantic pydantic-core annotated-types typing-inspection typing-extensions pyautoattack==0.2.0 'foolbox>=3.3.4,<4' \
  eagerpy gitpython gitdb smmap ruamel.yaml 'torchattacks>=3.5'
# Of pyautoattack's 40 MB only the code is needed.
python3 - <<'PY'
import pathlib
import zipfile

(wheel,) = pathlib.Path(".gpu/wheels").glob("pyautoattack-*.whl")
with zipfile.ZipFile(wheel) as whole:
    small = [(item, whole.read(item)) for item in whole.infolist() if item.file_size < 200_000]
with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as rest:
    for item, content in small:
        rest.writestr(item, content)
PY
ls .gpu/wheels
