//! Time: a server under changing traffic and a program that churns neither grow nor lose the ability to notice a bug.
//!
//! Half a minute each; with `TESTUDO_TEST_LENGTH=nightly` an hour.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};
use std::{fs, io::Write, net::TcpListener};

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

fn seconds() -> u64 {
    if support::nightly() { 3600 } else { 30 }
}

/// Resident KiB and mappings, early and late: a quarter and 8 MiB more are the swing of the load, not growth.
fn assert_flat(what: &str, early: (u64, u64), late: (u64, u64)) {
    assert!(late.0 <= early.0 + early.0 / 4 + 8192, "{what}: resident KiB grew from {} to {}", early.0, late.0);
    assert!(late.1 <= early.1 + early.1 / 4 + 200, "{what}: mappings grew from {} to {}", early.1, late.1);
}

/// Churns, then commits the bug, which must be reported as ever.
fn churns_and_reports(profile: &str, bug: &str, report: &str) {
    let folder = real::folder();
    let program = real::compile("c/soak.c", folder.path(), "program", &[]);
    let mut command = real::command(&program, folder.path(), Some(&format!("profile={profile}")));
    command.args([&seconds().to_string(), bug]);
    let deadline = Duration::from_secs(seconds() * 2) + real::DEADLINE;
    let ended = real::to_the_end_within(&mut command, deadline);
    let out = ended.out();
    let counts: Vec<u64> = out.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [resident, mappings, last_resident, last_mappings] = counts[..] else { panic!("{profile}: {ended:?}") };
    assert_flat(profile, (resident, mappings), (last_resident, last_mappings));
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{profile}: {ended:?}");
    assert!(ended.err().starts_with(&format!("testudo: {report} at 0x")), "{profile}: {ended:?}");
}

#[test]
fn a_double_free_after_a_long_run_is_reported_in_default() {
    churns_and_reports("default", "double free", "double free");
}

#[test]
fn an_overflow_after_a_long_run_is_reported_in_strict() {
    churns_and_reports("strict", "overflow", "buffer overflow");
}

/// Resident KiB and mappings of a process.
fn footprint(process: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the server runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
    let resident = resident.expect("a resident size").trim().parse().expect("a number");
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("the server runs");
    (resident, maps.lines().count() as u64)
}

#[test]
fn a_server_under_changing_traffic_does_not_grow() {
    if !real::installed(&["redis-server", "redis-cli", "redis-benchmark"]) {
        return;
    }
    let folder = real::folder();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let port = port.to_string();
    let log = fs::File::create(folder.path().join("log")).expect("a log");
    let program = |name, options| real::command(&real::find(name).expect("installed"), folder.path(), options);
    let mut command = program("redis-server", Some("profile=default"));
    // Bounded, so that the amount of data stays the same.
    command.args(["--bind", "127.0.0.1", "--port", &port, "--save", ""]);
    command.args(["--maxmemory", "60mb", "--maxmemory-policy", "allkeys-random"]);
    command.stdout(log.try_clone().expect("a duplicate")).stderr(log);
    let server = real::start(&mut command);
    let answers = |args: &[&str]| real::to_the_end(program("redis-cli", None).args(["-p", &port]).args(args));
    let patience = Instant::now();
    while answers(&["PING"]).out() != "PONG\n" {
        assert!(patience.elapsed() < real::DEADLINE, "redis-server does not answer");
        std::thread::sleep(Duration::from_millis(100));
    }
    let sizes = ["10", "200", "3000", "20000", "150000", "400000"];
    let traffic = |length: Duration| {
        let started = Instant::now();
        for size in sizes.iter().cycle() {
            let requests = if size.len() > 4 { "2000" } else { "20000" };
            let mut client = program("redis-benchmark", None);
            client.args(["-p", &port, "-q", "-n", requests, "-r", "100000", "-P", "8", "-d", size]);
            let ended = real::to_the_end(client.args(["-t", "set,get,lpush,lpop,hset"]));
            assert!(ended.status.success(), "{ended:?}");
            if started.elapsed() >= length && *size == "400000" {
                return;
            }
        }
    };
    traffic(Duration::from_secs(seconds() / 3));
    let early = footprint(server.id());
    traffic(Duration::from_secs(seconds()));
    let late = footprint(server.id());
    answers(&["SHUTDOWN", "NOSAVE"]);
    let status = real::end_of(server, &command);
    let log = fs::read_to_string(folder.path().join("log")).expect("the log");
    assert!(status.success() && !log.contains("testudo: "), "{status}: {log}");
    assert_flat("redis-server", early, late);
    writeln!(std::io::stderr(), "redis-server: {early:?}, then {late:?} KiB and mappings").expect("stderr is open");
}
