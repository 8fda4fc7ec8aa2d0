#!/usr/bin/env bash
# All that is asked of a CUDA device, in one command of at most nine minutes on an H100:
#   benchmarks/gpu.sh OUT [PICTURES]
# the tests that need CUDA; rates of attacks and training beside torchattacks (float32 and TF32); the full-scale trial of
# gpu_trial.yaml on a folder or archive of 60,000 pictures. Each part has its own deadline, and every figure is in
# OUT/gpu.jsonl as soon as it is there (`python benchmarks/gpu.py table OUT/gpu.jsonl` writes the tables).
# Nothing is installed from a network: what is missing comes from .gpu/wheels (benchmarks/gpu_wheels.sh).
# Seconds for each part can be given: TESTS_S, RATES_S, TRIAL_S.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:?folder for the figures}" && cd "$1" && pwd)
pictures=${2:+$(realpath "$2")}
figures=$out/gpu.jsonl
begun=$SECONDS
export PYTHONUNBUFFERED=1 NOTBUGS_TRACKING=off PYTHONWARNINGS=ignore::DeprecationWarning
site=$(mktemp -d)
if compgen -G '.gpu/wheels/*.whl' >/dev/null; then
  python3 -m pip install --quiet --no-index --no-deps --no-compile --root-user-action=ignore --target "$site" .gpu/wheels/*.whl
fi
export PYTHONPATH=$PWD/src:$PWD/benchmarks:$site

keep() { # part, what, seconds, said
  python3 - "$figures" "$@" <<'PY'
import json, sys
file, part, what, seconds, *said = sys.argv[1:]
row = {"part": part, "what": what, "seconds": int(seconds), "said": " ".join(" ".join(said).split())[:600]}
open(file, "a", encoding="utf-8").write(json.dumps(row, ensure_ascii=False) + "\n")
print(json.dumps(row, ensure_ascii=False), flush=True)
PY
}

echo "== tests"
from=$SECONDS
timeout "${TESTS_S:-60}" python3 -m pytest -q -m cuda -p no:cacheprovider -W ignore::DeprecationWarning \
  $(grep -rl 'mark.cuda' tests) >"$out/tests.txt" 2>&1
tail -n 40 "$out/tests.txt"
keep tests "cuda tests" $((SECONDS - from)) "$(tail -n 1 "$out/tests.txt")"

echo "== rates"
timeout "$((${RATES_S:-80} + 20))" python3 benchmarks/gpu.py measure --out "$figures" --seconds "${RATES_S:-80}" 2>"$out/rates.txt"
tail -n 5 "$out/rates.txt"

echo "== full-scale trial"
if [ -n "$pictures" ]; then
  project=$(mktemp -d)
  entries() { # write params.yaml with these entries of construct and fit
    python3 - "$project/params.yaml" "$pictures" "$@" <<'PY'
import sys, yaml
file, pictures, *names = sys.argv[1:]
params = yaml.safe_load(open("benchmarks/gpu_trial.yaml", encoding="utf-8"))
params["data"]["path"] = pictures
for section in ("construct", "fit"):
    params[section] = {name: params[section][name] for name in names}
yaml.Dumper.ignore_aliases = lambda *_: True
open(file, "w", encoding="utf-8").write(yaml.dump(params, sort_keys=False))
PY
  }
  ends=$((SECONDS + ${TRIAL_S:-370}))
  stage() {
    local left=$((ends - SECONDS)) from=$SECONDS code=0
    if [ "$left" -lt 10 ]; then
      keep "left out" "$*: no time left" 0
      return
    fi
    (cd "$project" && timeout "$left" python3 -m notbugs "$@") >"$out/stage.txt" 2>&1 || code=$?
    cat "$out/stage.txt" >>"$out/trial.txt"
    keep trial "$*" $((SECONDS - from)) "$([ "$code" = 0 ] || echo "exit $code:") $(grep -E "^(prepare|train|construct|fit|evaluate|error)[ :]" "$out/stage.txt" | grep -v ' left$' | tail -n 1)"
  }
  entries rand det
  stage prepare
  stage train standard
  stage train robust
  for name in det rand; do
    stage construct "$name"
    stage fit "$name"
  done
  stage evaluate
  entries robust nonrobust rand det
  for name in nonrobust robust; do
    stage construct "$name"
    stage fit "$name"
  done
  stage evaluate
  (cd "$project" && python3 -m notbugs results --csv 2>/dev/null) >"$out/results.csv" || rm -f "$out/results.csv"
  tail -n 40 "$out/trial.txt"
else
  keep "left out" "full-scale trial: no pictures given" 0
fi
echo "== done in $((SECONDS - begun)) s"
