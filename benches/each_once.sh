#!/usr/bin/env bash
# Runs every bench with as little as it takes, so that none is found broken when somebody wants a figure: what it prints
# is no measurement. From anywhere: `benches/each_once.sh`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

once() {
    local bench=$1
    shift
    printf -- '-- %s\n' "$bench"
    # None takes more than seconds.
    timeout 5m cargo bench --quiet --locked --bench "$bench" -- "$@"
}

timeout 20m cargo bench --locked --workspace --no-run
timeout 5m cargo bench --quiet --locked -p distdl-dl --bench step -- 1
once actions --processes 2 --threads 1 --datasets 10 --partitions 4 --runs 1
once beyond_memory --samples 20000 --memory 8MB --threads 2
once exchange --processes 2 --threads 1 --length 1000
once gpu --gpu off --network mlp --batch 128 --steps 4 --runs 1
once iteration --threads 2 --steps 200 --rounds 2 --runs 1
once out_of_core --megabytes 20 --memory 8MB --threads 2
once overlap --parameters 100000 --layers 2 --lane-milliseconds 2 --nodes 2 --steps 4 --runs 1
once paper_gpu --without-gpu --samples 256 --iterations 2 --runs 1
once paper_scaling --nodes 1,2 --steps 4 --runs 1
once recovery --threads 1 --kills 1
once scaling --clusters 1,2 --partitions 4 --wait 1 --runs 1
once shuffle --threads 2 --pairs 20000 --keys 100 --sort 20000 --join 20000 --edges 20000 \
    --text-megabytes 1 --runs 1
once staleness --shapes 1 --slow 1 --epochs 1 --trainings 1
once store --bytes 100000 --keys 1000 --runs 1 --folder "$folder"
once training --threads 2 --batch 128 --epochs 1
