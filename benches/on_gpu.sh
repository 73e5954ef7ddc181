#!/usr/bin/env bash
# All that waits for a machine with a GPU, one step after the other, what proves most first:
#
#     benches/on_gpu.sh --collect BINARIES              builds what is run into the archive BINARIES (.tar.gz), anywhere
#     benches/on_gpu.sh --plan [STEPS]                  prints the steps with the seconds that they should take and may take
#     benches/on_gpu.sh BINARIES OUT [PYTHON [STEPS]]   runs them, where the GPU is
#
# The machine needs a driver, cuBLAS, NVRTC and cuDNN, and neither Rust nor a compiler. PYTHON has PyTorch, for the comparison,
# and perhaps CUDA's libraries among its packages; '' for none. What each step prints goes to the archive OUT (.tar.gz), which is
# replaced as a whole after each step, so that what is done is kept if the rest is cut. A step that fails, or takes too long,
# does not keep the others from being run. STEPS is an extended regular expression for the whole name of a step.
#
# With BUDGET=SECONDS all ends in that time: a step may take what is left at most, and with less than 10 s left it is left out,
# which is said. So what matters most can be done where the machine is there for a quarter of an hour, its start included, and
# a run may take ten minutes:
#
#     BUDGET=570 benches/on_gpu.sh target/on_gpu.tar.gz target/figures_1.tar.gz python3
#     BUDGET=150 benches/on_gpu.sh target/on_gpu.tar.gz target/figures_2.tar.gz python3 \
#         'torch_wide_tf32|gpu_tf32|gpu_cudnn_tf32|lenet_cudnn'
#
# The first gets as far as torch_wide_f32, by estimate for an H100; for the second these are worth most, beside what the first
# should have done but has left out (left_out.txt in OUT) or cut (steps.txt: 124). Steps are run in the order of this file. The
# rest takes seven minutes more: 'torch_(mlp|lenet)_.*_tf32|gpu_(adam|limit|lamb|weighted|lanes|augment.*|single.*|pieces)|jobs|paper_gpu'.
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
    cp "${CARGO_TARGET_DIR:-target}"/release/examples/{mnist,lenet} "$to"
    for name in programs on_gpu emulated_gpu map_on_gpu; do
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

if [ "${1:-}" = --collect ]; then
    collect "$2"
    exit
fi

readonly budget=${BUDGET:-86400} data=(--data examples/data/mnist)
estimated=0

# Where steps find what they need, and write what they print.
prepare() {
    out=$2 python=${3:-} steps=${4:-.*}
    mkdir -p "$(dirname "$out")"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    binaries=$work/binaries figures=$work/figures
    mkdir "$binaries" "$figures" "$work/cache" "$work/links"
    tar -xzf "$1" -C "$binaries"
    # Kernels are compiled once for all steps.
    export DISTDL_CACHE=$work/cache
    [ -z "$python" ] || link_libraries
}

# Packages of pip have each library in a folder of its own, under a name with its version; a toolkit of the system has those
# without, which are looked for first. Links see to it that all steps have the libraries that PyTorch has.
link_libraries() {
    local packages library file folders
    packages=$("$python" -c 'import nvidia; print(list(nvidia.__path__)[0])' || true)
    for library in cublas cublasLt nvrtc cudnn cudnn_cnn; do
        for file in "$packages"/*/lib/lib"$library".so.*; do
            [ ! -e "$file" ] || ln -sf "$file" "$work/links/lib$library.so"
        done
    done
    folders=$(printf '%s:' "$packages"/*/lib)
    export LD_LIBRARY_PATH=$work/links:$folders${LD_LIBRARY_PATH:-}
    ls -l "$work/links" >"$figures/libraries.txt"
}

if [ "${1:-}" = --plan ]; then
    readonly is_plan=1 binaries=BINARIES python=PYTHON steps=${2:-.*}
else
    readonly is_plan=
    prepare "$@"
fi

# A step: the file that it prints to, whose name without the ending is the step's; the seconds that it should take, and may take.
step() {
    local file=$1 estimate=$2 limit=$3 left=$((budget - SECONDS)) begun=$SECONDS status=0
    shift 3
    [[ ${file%.*} =~ ^($steps)$ ]] || return 0
    if [ -n "$is_plan" ]; then
        estimated=$((estimated + estimate))
        printf '%-18s %4d of %4d s, %4d s so far: %s\n' "${file%.*}" "$estimate" "$limit" "$estimated" "$*"
        return
    fi
    if [ "$left" -lt 10 ]; then
        printf '!! %s is left out: %d s are left\n' "${file%.*}" "$left" | tee -a "$figures/left_out.txt"
        keep
        return
    fi
    [ "$limit" -le "$left" ] || limit=$left
    printf '\n== %s, at most %d s: %s\n' "${file%.*}" "$limit" "$*"
    deadline=$((SECONDS + limit)) limited "$@" >"$figures/$file" 2>&1 || status=$?
    grep '!! SKIPPED' "$figures/$file" || true
    tail -n 3 "$figures/$file"
    [ "$status" -eq 0 ] || printf '!! %s ended with %d\n' "${file%.*}" "$status"
    printf '%s: %d after %d s\n' "${file%.*}" "$status" "$((SECONDS - begun))" | tee -a "$figures/steps.txt"
    keep
}

# All that was printed so far. Whoever is cut off meanwhile has what was there before.
keep() {
    tar -czf "$out.new" -C "$figures" . && mv "$out.new" "$out"
}

# A program until the step's deadline, or a function of this script that takes care of that.
limited() {
    local left=$((deadline - SECONDS))
    if [ "$(type -t "$1")" = function ]; then
        "$@"
    else
        timeout --kill-after 5 "$((left > 1 ? left : 1))" "$@"
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

# Figures of the bench `gpu`, with one thread.
figure() {
    local file=$1 estimate=$2
    shift 2
    step "$file" "$estimate" 60 "$binaries/bench_gpu" --gpu on --threads 1 --runs 5 "$@"
}

# A line of the comparison with PyTorch.
compare() {
    local name=$1 estimate=$2 limit=$3 network=$4 precision=$5
    shift 5
    [ -n "$python" ] || return 0
    step "torch_${name}_$precision.txt" "$estimate" "$limit" "$python" benches/peers/torch_gpu.py --ours "$binaries/bench_gpu" \
        --network "$network" --precision "$precision" --variant eager,graph,compile+graph --runs 3 "$@"
}

[ -n "$is_plan" ] || nvidia-smi | tee "$figures/nvidia-smi" || true
# Without the compiler with which it would emulate all kernels first, which needs no GPU.
step programs.txt 30 90 env PATH=/nowhere "$binaries/test_programs"
step engine.txt 20 60 env DISTDL_TEST_GPU=real "$binaries/test_emulated_gpu" --test-threads 1
step map_on_gpu.txt 10 40 env DISTDL_TEST_GPU=real "$binaries/test_map_on_gpu"
step on_gpu.txt 60 150 env DISTDL_TEST_GPU=real "$binaries/test_on_gpu" --test-threads 1
step mnist.jsonl 20 60 same_bits mnist --epochs 5
step mnist_cpu.jsonl 10 40 "$binaries/mnist" --gpu off --json --epochs 5 "${data[@]}"
step lenet.jsonl 20 60 same_bits lenet --epochs 3
figure gpu.jsonl 30
figure gpu_cudnn.jsonl 15 --cudnn --network lenet
compare mlp_128 60 100 mlp f32 --batch 128
compare mlp_1024 60 100 mlp f32 --batch 1024
compare lenet_128 65 110 lenet f32 --batch 128
compare lenet_1024 65 110 lenet f32 --batch 1024
compare wide 75 130 wide f32 --ours-once --matrix-rate
step lenet_cudnn.jsonl 20 60 same_bits lenet --epochs 3 --cudnn
compare wide 70 120 wide tf32 --ours-once --matrix-rate
figure gpu_tf32.jsonl 30 --precision tf32
figure gpu_cudnn_tf32.jsonl 15 --cudnn --precision tf32 --network lenet
compare mlp_1024 50 100 mlp tf32 --batch 1024 --ours-once
compare lenet_1024 55 110 lenet tf32 --batch 1024 --ours-once
step jobs.jsonl 40 120 "$binaries/bench_gpu" --gpu on --threads 1 --jobs 1000
figure gpu_adam.jsonl 15 --optimizer adam --network mlp
figure gpu_limit.jsonl 15 --gradient-norm-max 1 --network mlp
figure gpu_lamb.jsonl 15 --optimizer lamb --network mlp
figure gpu_weighted.jsonl 15 --network weighted
figure gpu_lanes.jsonl 15 --lane-gradient-norm-max 1 --network mlp
figure gpu_augment.jsonl 15 --augment --network lenet
# Without whole steps, which they can be compared with.
figure gpu_single.jsonl 15 --single-steps --network mlp
figure gpu_pieces.jsonl 15 --single-steps --micro-batch 64 --network mlp
# The host changes pictures where they do not stay there.
figure gpu_augment_host.jsonl 15 --augment --gpu-memory 0 --network lenet
figure gpu_single_lanes.jsonl 15 --single-steps --lane-gradient-norm-max 1 --network mlp
step paper_gpu.jsonl 60 180 "$binaries/bench_paper_gpu" --threads 8 --runs 1 --iterations 300,900,1500 --without-cpu "${data[@]}"
compare mlp_128 50 100 mlp tf32 --batch 128 --ours-once
compare lenet_128 55 110 lenet tf32 --batch 128 --ours-once
