# Everything that is done to this project, in one place. `just --list` shows it.

# Format, lint, licences
check:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings
    cargo deny check

# The tests of the README
test:
    cargo test --release --workspace

# Rewrite the reference pages in docs/ from the code
docs:
    SEALFLOW_UPDATE=1 cargo test --release --workspace --test it reference

# Seal a small sector, here and now
demo:
    cargo run --release -- demo

# What CI runs
ci:
    .ci/run

# Seeded faults in the engine and in the journal, each of which a test must catch
mutants:
    tests/mutants/run.sh

# Kill the demo N times by the clock and check that it always resumes (some seconds a kill)
long-kills N="50":
    SEALFLOW_KILLS={{N}} cargo test --release --workspace --test it -- --nocapture kills_by_the_clock

# A 512 MiB sector through PC2, killed once in PC1's second layer (about half an hour)
long-512mib:
    cargo test --release --workspace --test it -- --ignored --nocapture a_512_mib_sector

# Ten sectors of two miners on the devnet, sealed at once with batches and kills (ten C2 proofs)
long-batches:
    cargo test --release --workspace --test it -- --ignored --nocapture ten_sectors_of_two_miners

# What arrives from the chain, fuzzed by coverage: so many seconds for each target (needs a C++ compiler; builds the crate `chain` with instrumentation)
long-fuzz SECONDS="300":
    chain/fuzz/run.sh {{SECONDS}}

# The journal's tests on RocksDB; needs a C++ compiler and libclang, and builds the database again
long-rocksdb:
    SEALFLOW_TEST_STORE=rocksdb cargo test --release --workspace --features rocksdb --lib journal::

# The law of journals on a SurrealDB server (user root, password root); removes its database `sealflow`
long-remote URL:
    SEALFLOW_TEST_SERVER={{URL}} cargo test --release --workspace --lib -- --ignored obeys_the_law_on_a_server

# Lives of whole installations, seed after seed, until one fails or somebody stops it
long-simulation SEED="1000000":
    SEALFLOW_SEED={{SEED}} cargo test --release -p sealflow-engine --lib -- --ignored --nocapture sim::site::tests::without_end

# The same lives on real journals, in memory and on disk; so many seeds from one on
long-lives N="100" SEED="0":
    SEALFLOW_CASES={{N}} SEALFLOW_SEED={{SEED}} cargo test --release --workspace --lib lives_are_the_same

# Power cuts: the journal's writes and syncs are recorded (needs strace), and the disk is put together as it may be after each cut
long-power-cuts COMMITS="200" CUTS="60":
    cargo build --release --workspace --examples && "${CARGO_TARGET_DIR:-target}/release/examples/power_loss" "${TMPDIR:-/tmp}" {{COMMITS}} {{CUTS}}

# Daemons that stand by for each other on a SurrealDB server that is new (user root, password root)
long-standby URL:
    SEALFLOW_TEST_SERVER={{URL}} cargo test --release --workspace --test it -- --ignored --nocapture whoever_decides

# Build the SurrealDB server of the registry (some 15 CPU minutes) and start it in memory on a port of this machine
surrealdb-server PORT="8000":
    cd tests/surrealdb_server && cargo build --release --target-dir "${CARGO_TARGET_DIR:-../../target}" && \
        "${CARGO_TARGET_DIR:-../../target}/release/surrealdb-test-server" start --user root --pass root --bind 127.0.0.1:{{PORT}} memory

# A worker seals on a machine that is kept busy for minutes, and must not be taken for lost
long-saturated:
    cargo test --release --workspace --test it -- --ignored --nocapture who_is_busy_is_not_taken_for_lost

# The published vc-processors crate as our child and as our parent
long-vc:
    cd tests/vc_processors && cargo build --release --locked --target-dir "${CARGO_TARGET_DIR:-../../target}"
    SEALFLOW_VC_PEER="${CARGO_TARGET_DIR:-$PWD/target}/release/vc-peer" \
        cargo test --release --workspace --test it -- --ignored the_published_crate

# Durable steps a second of ours and of other engines, in one run on this machine (needs node and python3; packages come from their registries)
bench-peers FOLDER="/tmp/sealflow-bench" ROUNDS="3":
    cargo build --release --workspace
    tests/bench/run.sh "${CARGO_TARGET_DIR:-target}/release/sealflow" {{FOLDER}} {{ROUNDS}} | tee {{FOLDER}}.jsonl
    tests/bench/ratios.py {{FOLDER}}.jsonl

# Our parameter generator against the library's own
bench-params:
    cargo build --release --workspace --examples && "${CARGO_TARGET_DIR:-target}/release/examples/params_bench"

# What one transaction costs
bench-journal:
    cargo build --release --workspace --examples && "${CARGO_TARGET_DIR:-target}/release/examples/row_budget"

# What a start and lists cost with many open runs
bench-runs N="10000":
    cargo build --release --workspace --examples && "${CARGO_TARGET_DIR:-target}/release/examples/many_runs" {{N}}

# The memory that the journal's store takes as it grows, and how long its longest commit is (1 GiB in one to two minutes)
long-journal MIB="2048" ENTRY_BYTES="1024":
    cargo build --release --workspace --examples && "${CARGO_TARGET_DIR:-target}/release/examples/journal_size" {{MIB}} {{ENTRY_BYTES}}

# Stores beside cp and the AWS command line (from PyPI): ratios, and the most memory of ours (some minutes)
long-stores MIB="1024" FOLDER="/tmp/sealflow-stores":
    cargo build --release --workspace --features sealflow-storage/testing --example store_throughput
    mkdir -p {{FOLDER}}
    tests/stores/throughput.sh "${CARGO_TARGET_DIR:-target}/release/examples/store_throughput" {{FOLDER}} {{MIB}} | tee {{FOLDER}}.jsonl
    tests/stores/ratios.py {{FOLDER}}.jsonl

# A store's copies on a file system that shares blocks: FOLDER is on btrfs or XFS
long-shared-blocks FOLDER:
    SEALFLOW_TEST_FOLDER={{FOLDER}} cargo test --release --workspace --lib -- --ignored a_file_system_that_shares_blocks

# Bytes and requests of the vanilla proofs of WindowPoSt, for a 512 MiB sector in a bucket (half an hour of two idle cores)
long-post-reads:
    cargo test --release --workspace --test it -- --ignored --nocapture a_512_mib_sector_is_proved_from_a_bucket
