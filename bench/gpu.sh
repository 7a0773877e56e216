#!/usr/bin/env bash
# Checks and measures the GPU engine on a CUDA machine that has torch, triton, cupy, pybind11, pytest-benchmark and nvcc.
#
#   bench/gpu.sh                          # all stages but the training, the most valuable first, in 14 minutes
#   bench/gpu.sh test                     # chosen stages: info, limits, test, triton, ops, products, descent, sparse
#   TRAIN_DATA=photos bench/gpu.sh train  # trains and saves weights; TRAIN_ARGS adds options of `fastrecon train lda-cs`
#
# All stages end within TOTAL_SECONDS, every one within STAGE_SECONDS. They need no network and no write access to the
# Python environment, and leave logs and results in $OUT (default: out/gpu). The status is non-zero if a stage failed or
# had no time left; the others still run. What the machine
# lacks may lie as wheels in .wheels/, which git ignores (`pip download --no-deps -d .wheels ...`): PyWavelets for
# wavelets beside haar and sym4. Tests and benches that need a missing library are skipped and say so.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${OUT:-out/gpu}
limit=${STAGE_SECONDS:-570}
total=${TOTAL_SECONDS:-840} # for all stages, the most valuable first
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
mkdir -p "$out"
# PYTHONSAFEPATH: else the checkout, which lacks what is built, would go before the installation in $site
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TRITON_INTERPRET=0
failed=()

stage() { # name, command...
  local name=$1 begin=$SECONDS left=$((total - SECONDS))
  shift
  [ "$left" -gt 0 ] || { failed+=("$name (no time left)") && return; }
  [ "$left" -lt "$limit" ] || left=$limit
  printf '\n=== %s: %s\n' "$name" "$*"
  timeout "$left" "$@" 2>&1 | tee "$out/$name.log"
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || failed+=("$name (status $status)")
  printf -- '--- %s: status %s, %s s\n' "$name" "$status" $((SECONDS - begin))
}

build() {
  local wheels=(.wheels/*.whl)
  local options=(-q --no-index --no-deps --upgrade --target "$site")
  [ ! -e "${wheels[0]}" ] || python3 -m pip install "${options[@]}" "${wheels[@]}" || return
  python3 -m pip install "${options[@]}" --no-build-isolation .
}

info() {
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
  nvcc --version | tail -n 2 || true
  python3 -m fastrecon info
}

train() {
  python3 -m fastrecon train lda-cs --data "${TRAIN_DATA:?the folder of training images}" --out "$out/train" ${TRAIN_ARGS:-}
}

bench() { # files: rows with times, ratios, and shares of the limits, which are measured in the same stage
  python3 bench/collect.py --csv "$out/results.csv" -q -k cuda "$@"
}

export -f build bench info train
export out site
stage build bash -c build
[ ${#failed[@]} -eq 0 ] || exit 1
descent=(bench/bench_{lda,train_lda}.py)
sparse=(bench/bench_{ista,dladmm}.py)
products=(bench/bench_{feature_gradient,block_product,ladmm_step,dwt2,radon}.py)
ops=($(ls bench/bench_*.py | grep -vxF "$(printf '%s\n' "${products[@]}" "${descent[@]}" "${sparse[@]}")"))
[ $# -gt 0 ] || set -- info test products descent sparse ops triton limits
for name; do
  case $name in
    info) stage info bash -c info ;;
    limits) stage limits python3 bench/collect.py --limits ;;
    test) stage test python3 -m pytest -m gpu -rs --durations=10 tests --ignore=tests/test_triton.py ;;
    triton) stage triton python3 -m pytest -m gpu -rs --durations=10 tests/test_triton.py ;;
    ops) stage ops bash -c 'bench "$@"' bench "${ops[@]}" ;;
    products) stage products bash -c 'bench "$@"' bench "${products[@]}" ;;
    descent) stage descent bash -c 'bench "$@"' bench "${descent[@]}" ;;
    sparse) stage sparse bash -c 'bench "$@"' bench "${sparse[@]}" ;;
    train | --train) stage train bash -c train ;;
    *) failed+=("$name: expected info, limits, test, triton, ops, products, descent, sparse or train") ;;
  esac
done
[ ! -s "$out/results.csv" ] || stage table python3 bench/collect.py --csv "$out/results.csv" --table
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}" >&2 && exit 1; }
