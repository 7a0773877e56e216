#!/usr/bin/env bash
# Checks and measures the GPU engine on a CUDA machine that has torch, triton, cupy, pybind11, pytest-benchmark and nvcc.
#
#   bench/gpu.sh                          # all stages but the training
#   bench/gpu.sh test                     # chosen stages: info, test, bench
#   TRAIN_DATA=photos bench/gpu.sh train  # trains and saves weights; TRAIN_ARGS adds options of `fastrecon train lda-cs`
#
# Every stage ends within ten minutes, needs no network and no write access to the Python environment, and leaves its log
# and results in $OUT (default: out/gpu). The status is non-zero if a stage failed; the others still run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${OUT:-out/gpu}
limit=${STAGE_SECONDS:-570}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
mkdir -p "$out"
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
failed=()

stage() { # name, command...
  local name=$1 begin=$SECONDS
  shift
  printf '\n=== %s: %s\n' "$name" "$*"
  timeout "$limit" "$@" 2>&1 | tee "$out/$name.log"
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || failed+=("$name (status $status)")
  printf -- '--- %s: status %s, %s s\n' "$name" "$status" $((SECONDS - begin))
}

info() {
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
  nvcc --version | tail -n 2 || true
  python3 -m fastrecon info
}

train() {
  python3 -m fastrecon train lda-cs --data "${TRAIN_DATA:?the folder of training images}" --out "$out/train" ${TRAIN_ARGS:-}
}

stage build python3 -m pip install -q --no-index --no-deps --no-build-isolation --upgrade --target "$site" .
[ ${#failed[@]} -eq 0 ] || exit 1
export -f info train
export out
[ $# -gt 0 ] || set -- info test bench
for name; do
  case $name in
    info) stage info bash -c info ;;
    test) TRITON_INTERPRET=0 stage test python3 -m pytest -m gpu -rs --durations=10 tests ;;
    bench) stage bench python3 bench/collect.py --csv "$out/results.csv" -q -k cuda ;;
    train) stage train bash -c train ;;
    *) failed+=("$name: expected info, test, bench or train") ;;
  esac
done
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}" >&2 && exit 1; }
