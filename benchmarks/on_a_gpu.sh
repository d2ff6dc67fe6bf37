#!/usr/bin/env bash
# What one GPU shows in at most a quarter of an hour: tests, the default run, benchmarks, and real runs
# with the time that is left.  Ends in a short table.
#
#     benchmarks/on_a_gpu.sh [OUT [DATA [SECONDS]]]
#
# OUT      a folder for what is to be kept, at most 8 files (on_a_gpu)
# DATA     a --data-dir with mnist/, and cifar10/ or a folder of its pictures, cifar10-jpg/train
#          (data); what is not there is left out
# SECONDS  all that it may take (840)
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-on_a_gpu}") data=$(realpath -m "${2:-data}") end=$((SECONDS + ${3:-840}))
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
mkdir -p "$out"
: > "$out/logs.txt"
summary=()

part() {    # part NAME SECONDS COMMAND...: at most so long, and no longer than is left
    local name=$1 limit=$2 left=$((end - SECONDS)) start=$SECONDS code
    shift 2
    ((limit > left)) && limit=$left
    ((limit < 10)) && { summary+=("$name: no time was left"); return 1; }
    echo "== $name: $*" | tee -a "$out/logs.txt"
    timeout --signal=TERM --kill-after=20 "$limit" "$@" > "$runs/log" 2>&1
    code=$?
    cat "$runs/log" >> "$out/logs.txt"
    summary+=("$name: exit $code after $((SECONDS - start)) s$(found)")
    printf '%s\n' "${summary[@]}" > "$out/summary.txt"           # in case there is no end
    return $code
}

found() {   # what is worth a line of the log of a part, each below its name
    grep -aE ' passed| skipped|steps? .*img/s|^(ours|diffusers)|limit|bits/dim|not recorded|Error|^[a-z]+\.py: ' \
        "$runs/log" | grep -v '^E  ' | tail -n "${lines:-2}" | tr -d '\r' |
        while IFS= read -r line; do printf '\n    %s' "$line"; done
}

keep() { [ -f "$1" ] && cp "$1" "$out/$2"; }

python - <<'PY' | tee -a "$out/logs.txt"
import platform, sys, torch
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{gpu}; torch {torch.__version__}, Python {platform.python_version()}")
PY
workers=$(python -c 'import xdist, os; print("-n", max(1, os.cpu_count() - 2))' 2> /dev/null)

part "tests/test_gpu.py" 180 python -m pytest tests/test_gpu.py -m "not slow"
# shellcheck disable=SC2086
part "pytest $workers" 120 python -m pytest $workers
part "python train.py --record" 120 python train.py --record --out "$runs/digits"
keep "$runs/digits/samples.png" digits.png
part "python train.py" 60 python train.py --no-record --steps 500 --out "$runs/plain"
part "python sample.py --record" 60 python sample.py --record \
    --checkpoint "$runs/digits/checkpoint.pt" --out "$runs/digits.png"
for row in digits cifar10; do
    lines=20 part "speed, $row" 160 python -m benchmarks.speed --quick --rows $row
done

if [ -d "$data/mnist" ] && part "mnist" 300 python train.py mnist --record \
        --data-dir "$data" --out "$runs/mnist"; then
    keep "$runs/mnist/samples.png" mnist.png
    keep "$runs/mnist/log.csv" mnist.csv
    part "mnist, bits/dim" 90 python -m papers.variational_bound --record --n 1000 \
        --checkpoint "$runs/mnist/checkpoint.pt" --out "$runs/bound.png"
    python -m papers.kit.training "$runs/mnist/checkpoint.pt" "$out/mnist.pt" > /dev/null
fi

cifar10=("--data-dir" "$data")
[ -d "$data/cifar10-jpg/train" ] && cifar10=("--data" "$data/cifar10-jpg/train")
if [ -d "$data/cifar10" ] || [ -d "$data/cifar10-jpg/train" ]; then
    left=$((end - SECONDS - 45))                     # a signal at the end: it saves, and then draws
    part "cifar10" "$left" python train.py cifar10 "${cifar10[@]}" --record --steps 1000000 \
        --sample-every 0 --log-every 500 --out "$runs/cifar10"
    part "cifar10, 64 samples" 40 python sample.py --record --n 64 --out "$runs/cifar10.png" \
        --checkpoint "$runs/cifar10/checkpoint.pt"
    keep "$runs/cifar10.png" cifar10.png
    keep "$runs/cifar10/log.csv" cifar10.csv
fi

echo
printf '%s\n' "${summary[@]}" | tee "$out/summary.txt"
