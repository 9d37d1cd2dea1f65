# What CI runs, and what else a developer needs. `just` lists it.

_:
    @just --list --unsorted

# All that CI runs, fuzzing included
check:
    .ci/run

# Format, clippy and docs, warnings denied
lint:
    cargo fmt --check
    cargo clippy --all-targets --all-features --locked -- -D warnings
    cargo clippy --no-default-features --lib --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# Tests; arguments go to cargo: `just test --test crash`
test *args:
    cargo test --locked {{ args }}

# The library's docs in the browser
doc:
    cargo doc --no-deps --locked --open

# Fuzz one target: `just fuzz manifest 600`
fuzz target seconds="60":
    mkdir -p fuzz/corpus/{{ target }}
    RUSTC_BOOTSTRAP=1 cargo fuzz run -s none {{ target }} fuzz/corpus/{{ target }} fuzz/seeds/{{ target }} -- -max_total_time={{ seconds }} -rss_limit_mb=512 -malloc_limit_mb=256 -timeout=10

# Rewrite the seeds of the fuzz targets, after a change of format
seeds:
    cargo run --manifest-path fuzz/Cargo.toml --example seeds

# Benchmarks; arguments go to cargo: `just bench --bench split`
bench *args:
    cargo bench --locked {{ args }}

# Rewrite the golden files. On purpose only: a change of golden bytes is a change of the format
golden:
    CASKAD_REGENERATE=1 cargo test --locked
    git status --short manifests tests

# The policy for dependencies
deny:
    cargo deny check

# Install the command
install:
    cargo install --path . --locked
