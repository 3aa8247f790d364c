#!/usr/bin/env bash
# All that is to be run on a machine with an NVIDIA GPU, in stages with time limits of their own:
#   bench/gpu.sh [--dry] [STAGE ...]      STAGE: smoke tests exact sanitize figure bench (default: all, in this order)
# PYTHON: the interpreter, used as it is: nothing is installed. OUT: the folder of the results (default out/gpu).
# A stage that fails does not stop the others; the last lines are a table, and the exit status is 1 if any failed.
# After TOTAL seconds (default 420) nothing more is begun. --dry: the same commands on the kernels' CPU shim and NumPy, with little to do.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} OUT=${OUT:-out/gpu} TOTAL=${TOTAL:-420} DRY=
export PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false PBDE_REQUIRE_GPU=1
if [ "${1:-}" = --dry ]; then DRY=1 PBDE_REQUIRE_GPU=0; shift; fi
[ $# -gt 0 ] || set -- smoke tests exact sanitize figure bench
mkdir -p "$OUT" && rm -f "$OUT/stages.txt"
failed=0

# run NAME SECONDS COMMAND...: its output goes to OUT/NAME.log too, a line to OUT/stages.txt
run() {
    local name=$1 limit=$2 start=$SECONDS left=$((TOTAL - SECONDS)) status
    shift 2
    if [ $left -lt 5 ]; then skip "$name" "$TOTAL s are over"; return; fi
    [ $left -lt "$limit" ] && limit=$left
    echo "== $name: $*"
    timeout --kill-after=5 "$limit" "$@" </dev/null 2>&1 | tee "$OUT/$name.log"
    status=${PIPESTATUS[0]}
    [ "$status" = 0 ] || failed=1
    printf '%-16s exit %-4s %4d s of %s\n' "$name" "$status" $((SECONDS - start)) "$limit" >>"$OUT/stages.txt"
}
skip() { printf '%-16s skipped: %s\n' "$1" "$2" | tee -a "$OUT/stages.txt"; }
has() { "$PYTHON" -c "import $1" 2>/dev/null; }

smoke() {  # versions and device; every kernel compiled, then launched against NumPy
    command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    if [ $DRY ]; then
        run smoke 60 "$PYTHON" -m tests.gpu compile launches --ops shim --only columns
    else
        run smoke 60 "$PYTHON" -m tests.gpu compile launches --save "$OUT/smoke.json"
    fi
}

tests() {  # the tests marked gpu; other packages' warnings of change are no errors here
    local options=(-m gpu -rs -W default -W "error:no CUDA graph")
    has xdist && [ ! $DRY ] && options+=(--numprocesses 8 --dist loadfile)
    [ $DRY ] && options+=(tests/test_philox.py)
    run tests 90 "$PYTHON" -m pytest "${options[@]}"
}

exact() {  # graphs to the bit, and what tensor cores round
    if [ $DRY ]; then
        run exact 60 "$PYTHON" -m tests.gpu graphs precision --ops shim --only "a capture" "33 comparisons"
    else
        run exact 60 "$PYTHON" -m tests.gpu graphs precision --save "$OUT/exact.json"
    fi
}

sanitize() {  # out of bounds and races, over the smoke test's launches
    local tool
    command -v compute-sanitizer >/dev/null || { skip sanitize "no compute-sanitizer"; return; }
    for tool in memcheck racecheck; do
        run "$tool" 30 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$PYTHON" -m tests.gpu launches --no-pool
    done
}

bench() {  # speed, beside PyTorch and JAX where they are installed
    if [ $DRY ]; then
        timed mlp_32768 60 mlp --pairs 64 --steps 20 --ops numpy --threads 1
        return
    fi
    timed mlp_32768 60 mlp --pairs 32768 --steps 1010 --ops cupy --peers
    timed lm_paper_tf32 75 lm --config paper --steps 40 --precision tf32 --ops cupy --peers
    timed sample_small 60 sample --config small --count 1024 --ops cupy --peers
    timed mlp_1024 40 mlp --pairs 1024 --steps 1010 --ops cupy --peers
    run kernels 60 "$PYTHON" -m bench kernels --ops cupy --alone --out "$OUT" --save "$OUT/kernels.json"
    timed mlp_tf32 20 mlp --pairs 32768 --steps 1010 --precision tf32 --ops cupy
    timed lm_paper 20 lm --config paper --steps 20 --ops cupy
    timed lm_paper_pref 20 lm --config paper --task pref --batch 128 --steps 20 --precision tf32 --ops cupy
    timed lm_paper_bf16 20 lm --config paper --steps 40 --precision bfloat16 --ops cupy
}

# timed NAME SECONDS OPTION...: a benchmark, its results in OUT/NAME.json
timed() { run "$1" "$2" "$PYTHON" -m bench "${@:3}" --json --save "$OUT/$1.json"; }

figure() {  # Figure 1, trained
    has matplotlib || { skip figure "no Matplotlib"; return; }
    if [ $DRY ]; then
        run figure 60 "$PYTHON" -m figures reward --ops numpy --steps 3 --out "$OUT"
    else
        run figure 60 "$PYTHON" -m figures reward --ops cupy --out "$OUT"
    fi
}

for stage in "$@"; do
    case $stage in
        smoke | tests | exact | sanitize | bench | figure) "$stage" ;;
        *) echo "no stage $stage: smoke, tests, exact, sanitize, figure, bench" >&2; exit 2 ;;
    esac
done
echo "== stages"
cat "$OUT/stages.txt"
exit $failed
