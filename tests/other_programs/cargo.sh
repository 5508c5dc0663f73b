# cargo and rustc: a crate is built and its test runs.
. ./prelude.sh
# rust-lld frees by `operator delete` what libLLVM allocated by an `operator new` of its own: docs/tested-programs.md.
OPTIONS="${OPTIONS:-}:mismatch=0"
export CARGO_HOME="$PWD/home" CARGO_TARGET_DIR="$PWD/target"
mkdir -p src
cat > Cargo.toml <<'END'
[package]
name = "small"
version = "0.1.0"
edition = "2021"
[profile.release]
lto = "fat"
END
cat > src/main.rs <<'END'
use std::collections::{BTreeMap, HashMap};
fn main() {
    let mut words: HashMap<String, Vec<usize>> = HashMap::new();
    for number in 0..50_000_usize {
        words.entry(format!("w{}", number % 977)).or_default().push(number);
    }
    let sorted: BTreeMap<_, usize> = words.iter().map(|(word, places)| (word, places.iter().sum())).collect();
    let threads: Vec<_> = (0..4).map(|n| std::thread::spawn(move || (0..n * 1000).map(Box::new).map(|b| *b).sum::<i32>())).collect();
    let sum: i32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    println!("{} {:?} {sum}", sorted.len(), sorted.iter().next_back());
}
#[test]
fn strings_grow() {
    assert_eq!("ab".repeat(100_000).len(), 200_000);
}
END
protected cargo build --offline --release --quiet
protected cargo test --offline --quiet > test.log 2>&1
grep -c '1 passed' test.log
protected target/release/small
