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
# which is said in left_out.txt; steps.txt says how each ended, with 124 or 137 if it was cut. Steps are run in the order of this file.
# By estimate all takes a little more than ten minutes on an H200; the last steps are figures that are compared with nothing else:
#
#     BUDGET=590 benches/on_gpu.sh target/on_gpu.tar.gz target/figures.tar.gz python3
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
        --network "$network" --precision "$precision" --variant eager,compile,graph,compile+graph --runs 3 "$@"
}

# The GPU's memory in use, in MiB, by the driver's own count.
used() {
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -n 1
}

# Two processes train on one GPU, and one of them is killed: the same parameters as by one process, and no memory is left in use.
killed() {
    local before after one two
    before=$(used)
    one=$(limited "$binaries/mnist" --gpu on --json --epochs 5 "${data[@]}" | tail -n 1) || return
    two=$(limited "$binaries/mnist" --gpu on --json --epochs 5 --processes 2 --chaos kill=worker:1@step:1000 "${data[@]}" |
        tail -n 1) || return
    after=$(used)
    printf '%s\n%s\nMiB in use before: %s, after: %s\n' "$one" "$two" "$before" "$after"
    [ -n "$(hash_of "$one")" ] && [ "$(hash_of "$one")" = "$(hash_of "$two")" ] && [ "$after" -le "$((before + 16))" ] &&
        echo 'the same bits, and no memory is left in use'
}

[ -n "$is_plan" ] || nvidia-smi | tee "$figures/nvidia-smi" || true
# Without the compiler with which it would emulate all kernels first, which needs no GPU.
step programs.txt 5 90 env PATH=/nowhere "$binaries/test_programs"
step engine.txt 3 60 env DISTDL_TEST_GPU=real "$binaries/test_emulated_gpu" --test-threads 1
step map_on_gpu.txt 3 40 env DISTDL_TEST_GPU=real "$binaries/test_map_on_gpu"
step on_gpu.txt 3 150 env DISTDL_TEST_GPU=real "$binaries/test_on_gpu" --test-threads 1
step mnist.jsonl 3 60 same_bits mnist --epochs 5
step mnist_cpu.jsonl 4 40 "$binaries/mnist" --gpu off --json --epochs 5 "${data[@]}"
step lenet.jsonl 4 60 same_bits lenet --epochs 3
step lenet_cudnn.jsonl 6 60 same_bits lenet --epochs 3 --cudnn
step killed.jsonl 8 60 killed
step jobs.jsonl 30 120 "$binaries/bench_gpu" --gpu on --threads 1 --jobs 1000
step paper_gpu.jsonl 50 180 "$binaries/bench_paper_gpu" --threads 8 --runs 1 "${data[@]}"
compare small 180 260 mlp,lenet f32
compare wide 60 130 wide f32 --ours-once --matrix-rate
compare wide 60 120 wide tf32 --ours-once --matrix-rate
compare small 130 200 mlp,lenet tf32 --ours-once
figure gpu_adam.jsonl 5 --optimizer adam --network mlp
figure gpu_limit.jsonl 5 --gradient-norm-max 1 --network mlp
figure gpu_lamb.jsonl 5 --optimizer lamb --network mlp
figure gpu_weighted.jsonl 5 --network weighted
figure gpu_lanes.jsonl 5 --lane-gradient-norm-max 1 --network mlp
figure gpu_augment.jsonl 10 --augment --network lenet
# Without resident steps, which they can be compared with.
figure gpu_single.jsonl 5 --single-steps --network mlp
figure gpu_pieces.jsonl 5 --single-steps --micro-batch 64 --network mlp
# The host changes pictures where they do not stay there.
figure gpu_augment_host.jsonl 10 --augment --gpu-memory 0 --network lenet
figure gpu_single_lanes.jsonl 5 --single-steps --lane-gradient-norm-max 1 --network mlp
