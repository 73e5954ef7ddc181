#!/usr/bin/env bash
# All that waits for a machine with a GPU, one after the other: `benches/on_gpu.sh BINARIES OUT [PYTHON [STEPS]]`.
#
# The machine needs a driver, cuBLAS, NVRTC and cuDNN, and neither Rust nor a compiler: `benches/on_gpu.sh --collect BINARIES`
# builds what is run and puts it into the archive BINARIES (.tar.gz) beforehand, anywhere. PYTHON has PyTorch, for the
# comparison, and perhaps CUDA's libraries among its packages; '' for none. What each step prints goes to the archive OUT
# (.tar.gz), which is written anew after each, so that what is done is kept if the rest is cut. A step that fails, or takes
# too long, does not keep the others from being run. STEPS is an extended regular expression: only the steps with such names
# are run. In the order of what matters most; all take some 12 minutes on an H100, by estimate.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The path of the program that a cargo command names.
built() {
    cargo "$@" --no-run 2>&1 | sed -n 's/^ *Executable.*(\(.*\))$/\1/p' | tail -n 1
}

collect() {
    local to name
    to=$(mktemp -d)
    cargo build --release --example mnist --example lenet
    cp target/release/examples/{mnist,lenet} "$to"
    for name in programs on_gpu; do
        cp "$(built test --release --workspace --test "$name")" "$to/test_$name"
    done
    for name in gpu paper_gpu; do
        cp "$(built bench --bench "$name")" "$to/bench_$name"
    done
    strip "$to"/*
    tar -czf "$1" -C "$to" .
    rm -r "$to"
    du -h "$1"
}

if [ "$1" = --collect ]; then
    collect "$2"
    exit
fi

readonly out=$2 python=${3:-} steps=${4:-.} data=(--data examples/data/mnist)
mkdir -p "$(dirname "$out")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
readonly work binaries=$work/binaries figures=$work/figures
mkdir "$binaries" "$figures" "$work/cache" "$work/links"
tar -xzf "$1" -C "$binaries"

# Kernels are compiled once for all steps.
export DISTDL_CACHE=$work/cache

# Packages of pip have each library in a folder of its own, under a name with its version; a toolkit of the system has those
# without, which are looked for first. Links see to it that all steps have the libraries that PyTorch has.
if [ -n "$python" ]; then
    packages=$("$python" -c 'import nvidia; print(list(nvidia.__path__)[0])' || true)
    for library in cublas cublasLt nvrtc cudnn cudnn_cnn; do
        for file in "$packages"/*/lib/lib"$library".so.*; do
            [ ! -e "$file" ] || ln -sf "$file" "$work/links/lib$library.so"
        done
    done
    folders=$(printf '%s:' "$packages"/*/lib)
    export LD_LIBRARY_PATH=$work/links:$folders${LD_LIBRARY_PATH:-}
    ls -l "$work/links" >"$figures/libraries.txt"
fi

# A step of a name and a limit in seconds.
step() {
    local name=$1 seconds=$2 status=0 begun=$SECONDS
    shift 2
    [[ $name =~ $steps ]] || return 0
    printf '\n== %s: %s\n' "$name" "$*"
    limit=$seconds limited "$@" >"$figures/$name" 2>&1 || status=$?
    printf '== %s: %d s\n' "$name" "$((SECONDS - begun))"
    grep '!! SKIPPED' "$figures/$name" || true
    tail -n 3 "$figures/$name"
    [ "$status" -eq 0 ] || printf '!! %s ended with %d\n' "$name" "$status"
    tar -czf "$out" -C "$figures" .
}

# A program, or a function of this script that takes care of its own limits.
limited() {
    if [ "$(type -t "$1")" = function ]; then
        "$@"
    else
        timeout "$limit" "$@"
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

# A figure of the bench `gpu`, with one thread.
figure() {
    local name=$1
    shift
    step "$name" 90 "$binaries/bench_gpu" --gpu on --threads 1 --runs 5 "$@"
}

compare() {
    local name=$1 seconds=$2
    shift 2
    [ -z "$python" ] || step "$name" "$seconds" "$python" benches/peers/torch_gpu.py --ours "$binaries/bench_gpu" "$@"
}

nvidia-smi | tee "$figures/nvidia-smi" || true
step programs.txt 120 "$binaries/test_programs"
step on_gpu.txt 180 env DISTDL_TEST_GPU=real "$binaries/test_on_gpu" --test-threads 1
step mnist.jsonl 60 same_bits mnist --epochs 5
step mnist_cpu.jsonl 60 "$binaries/mnist" --gpu off --json --epochs 5 "${data[@]}"
step lenet.jsonl 60 same_bits lenet --epochs 3
figure gpu.jsonl
figure gpu_cudnn.jsonl --cudnn --network lenet
compare torch_f32.txt 200 --precision f32 --network mlp,lenet
compare torch_tf32.txt 200 --precision tf32 --network mlp,lenet
compare torch_wide_tf32.txt 90 --precision tf32 --network wide
compare torch_wide_f32.txt 90 --precision f32 --network wide
step jobs.jsonl 200 "$binaries/bench_gpu" --gpu on --threads 1 --jobs 1000
step paper_gpu.jsonl 240 "$binaries/bench_paper_gpu" --threads 8 --runs 1 "${data[@]}"
figure gpu_tf32.jsonl --precision tf32
figure gpu_adam.jsonl --optimizer adam --network mlp
figure gpu_limit.jsonl --gradient-norm-max 1 --network mlp
figure gpu_lamb.jsonl --optimizer lamb --network mlp
figure gpu_cudnn_tf32.jsonl --cudnn --precision tf32 --network lenet
step lenet_cudnn.jsonl 60 same_bits lenet --epochs 3 --cudnn
