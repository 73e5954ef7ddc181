#!/usr/bin/env bash
# All that waits for a machine with a GPU, one after the other: `benches/on_gpu.sh BINARIES OUT [PYTHON [STEPS]]`.
#
# The machine needs a driver, cuBLAS, NVRTC and cuDNN, and neither Rust nor a compiler: `benches/on_gpu.sh --collect BINARIES`
# builds what is run and puts it into the folder BINARIES beforehand, anywhere. PYTHON has PyTorch, for the comparison, and
# perhaps CUDA's libraries among its packages; '' for none. What each step prints goes to OUT; a step that fails, or takes
# five minutes, does not keep the others from being run. STEPS is an extended regular expression: only the steps with such
# names are run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The path of the program that a cargo command names.
built() {
    cargo "$@" --no-run 2>&1 | sed -n 's/^ *Executable.*(\(.*\))$/\1/p' | tail -n 1
}

collect() {
    local to=$1 name
    mkdir -p "$to"
    cargo build --release --example mnist --example lenet
    cp target/release/examples/{mnist,lenet} "$to"
    for name in programs on_gpu; do
        cp "$(built test --release --workspace --test "$name")" "$to/test_$name"
    done
    for name in gpu paper_gpu; do
        cp "$(built bench --bench "$name")" "$to/bench_$name"
    done
    strip "$to"/*
    du -sh "$to"
}

if [ "$1" = --collect ]; then
    collect "$2"
    exit
fi

readonly binaries=$1 out=$2 python=${3:-} steps=${4:-.} data=(--data examples/data/mnist)
mkdir -p "$out"

# Kernels are compiled once for all steps.
DISTDL_CACHE=$(mktemp -d)
export DISTDL_CACHE
trap 'rm -rf "$DISTDL_CACHE"' EXIT

# Packages of pip have each library in a folder of its own.
if [ -n "$python" ]; then
    folders=$("$python" -c 'import glob, nvidia; print(":".join(glob.glob(list(nvidia.__path__)[0] + "/*/lib")))' || true)
    [ -z "$folders" ] || export LD_LIBRARY_PATH="$folders${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi

step() {
    local name=$1 status=0 begun=$SECONDS
    shift
    [[ $name =~ $steps ]] || return 0
    printf '\n== %s: %s\n' "$name" "$*"
    limited "$@" >"$out/$name" 2>&1 || status=$?
    printf '== %s: %d s\n' "$name" "$((SECONDS - begun))"
    grep '!! SKIPPED' "$out/$name" || true
    tail -n 3 "$out/$name"
    [ "$status" -eq 0 ] || printf '!! %s ended with %d\n' "$name" "$status"
}

# A program, or a function of this script that takes care of its own limits.
limited() {
    if [ "$(type -t "$1")" = function ]; then
        "$@"
    else
        timeout 300 "$@"
    fi
}

# Equal parameters after the same training, twice.
same_bits() {
    local example=$1 first second
    shift
    first=$(limited "$binaries/$example" --gpu on --json "$@" "${data[@]}" | tail -n 1) || return
    second=$(limited "$binaries/$example" --gpu on --json --threads 3 "$@" "${data[@]}" | tail -n 1) || return
    printf '%s\n%s\n' "$first" "$second"
    [ -n "$(hash_of "$first")" ] && [ "$(hash_of "$first")" = "$(hash_of "$second")" ] && echo 'the same bits twice'
}

hash_of() {
    sed -n 's/.*"parameters_hash":"\([0-9a-f]*\)".*/\1/p' <<<"$1"
}

nvidia-smi | tee "$out/nvidia-smi" || true
step programs.txt "$binaries/test_programs"
step on_gpu.txt env DISTDL_TEST_GPU=real "$binaries/test_on_gpu" --test-threads 1
step mnist.jsonl same_bits mnist --epochs 5
step mnist_cpu.jsonl "$binaries/mnist" --gpu off --json --epochs 5 "${data[@]}"
step lenet.jsonl same_bits lenet --epochs 3
step gpu.jsonl "$binaries/bench_gpu" --gpu on --threads 1
step gpu_tf32.jsonl "$binaries/bench_gpu" --gpu on --threads 1 --precision tf32 --network mlp,lenet
step gpu_adam.jsonl "$binaries/bench_gpu" --gpu on --threads 1 --optimizer adam --network mlp
step gpu_limit.jsonl "$binaries/bench_gpu" --gpu on --threads 1 --gradient-norm-max 1 --network mlp
step gpu_lamb.jsonl "$binaries/bench_gpu" --gpu on --threads 1 --optimizer lamb --network mlp
step gpu_cudnn.jsonl "$binaries/bench_gpu" --gpu on --threads 1 --cudnn --network lenet
step gpu_cudnn_tf32.jsonl "$binaries/bench_gpu" --gpu on --threads 1 --cudnn --precision tf32 --network lenet
step lenet_cudnn.jsonl same_bits lenet --epochs 3 --cudnn
step wide.jsonl "$binaries/bench_gpu" --gpu on --threads 1 --precision tf32 --network wide --batch 4096 --steps 20
step jobs.jsonl "$binaries/bench_gpu" --gpu on --threads 1 --jobs 1000
step paper_gpu.jsonl "$binaries/bench_paper_gpu" --threads 8 "${data[@]}"
if [ -n "$python" ]; then
    for precision in f32 tf32; do
        step "torch_$precision.txt" "$python" benches/peers/torch_gpu.py --precision "$precision" \
            --ours "$binaries/bench_gpu" --steps 100 --runs 5
    done
fi
