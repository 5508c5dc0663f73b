//! redis-server under redis-benchmark: the server runs under the allocator, the client does not.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::{self, Usage};
use crate::peers::Allocator;
use crate::places::Places;

/// Runs server and client. The time is the client's, memory and processor time are the server's.
pub fn run(places: &Places, allocator: &Allocator, requests: u64, timeout: u32) -> Result<Usage, String> {
    let socket = places.out.join("runs/redis.sock");
    let _ = std::fs::remove_file(&socket);
    let socket = socket.display().to_string();
    let words =
        ["redis-server", "--port", "0", "--unixsocket", &socket, "--save", "", "--appendonly", "no"].map(String::from);
    // Debian's server is linked against jemalloc; preloading the C library puts its malloc first.
    let mut under = allocator.clone();
    if under.library.is_none() {
        under.library = c_library();
    }
    let mut server = measure::start(places, &under, &words, &[], timeout)?;
    let client = |program: &str, words: &[&str]| {
        Command::new(program)
            .args(["-s", &socket])
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let patience = Instant::now();
    while !client("redis-cli", &["ping"]) {
        if !server.is_running() || patience.elapsed() > Duration::from_secs(10) {
            client("redis-cli", &["shutdown", "nosave"]);
            return Err(match server.finish() {
                Ok(_) => "the server does not answer".into(),
                Err(reason) => reason,
            });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let requests = requests.to_string();
    let start = Instant::now();
    let served = client(
        "redis-benchmark",
        &[
            "-q",
            "-n",
            &requests,
            "-r",
            "30000",
            "-d",
            "200",
            "-P",
            "16",
            "-t",
            "set,get,lpush,lrange_100,sadd,zadd,hset",
        ],
    );
    let wall = start.elapsed().as_secs_f64();
    client("redis-cli", &["shutdown", "nosave"]);
    let usage = server.finish()?;
    if !served {
        return Err("redis-benchmark failed".into());
    }
    Ok(Usage { wall, ..usage })
}

fn c_library() -> Option<std::path::PathBuf> {
    ["/lib/x86_64-linux-gnu/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6", "/lib64/libc.so.6"]
        .into_iter()
        .map(std::path::PathBuf::from)
        .find(|path| path.exists())
}
