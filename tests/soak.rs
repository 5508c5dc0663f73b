//! Time: a server under changing traffic and a program that churns neither grow nor lose the ability to notice a bug.
//!
//! Half a minute each; with `TESTUDO_TEST_LENGTH=nightly` an hour. `-- --nocapture` shows what was measured on the way.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};
use std::{fs, thread};

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
mod support;

fn length() -> Duration {
    Duration::from_secs(if support::nightly() { 3600 } else { 30 })
}

/// After this long something counts as hung.
fn patience() -> Duration {
    length() * 3 + real::DEADLINE
}

/// How often it is looked at on the way; a slow machine gets to fewer.
fn stops() -> u32 {
    if support::nightly() { 120 } else { 12 }
}

/// What was seen at one stop.
#[derive(Debug, Clone, Copy)]
struct Stop {
    resident_kib: u64,
    mappings: u64,
}

/// Growth lifts the lowest figures as it lifts the others; the load's own swing leaves them alone but for an eighth and 8 MiB.
/// In a long run the lowest of the last quarter is held against that of the second one: what comes before is the program's
/// beginning. A short run has too few figures for that: a server's data swing by a factor of three. There some figure of the
/// later half must be no higher than some of the earlier.
fn assert_flat(what: &str, stops: &[Stop]) {
    let quarter = stops.len() / 4;
    assert!(quarter >= 2, "{what}: {stops:?}");
    let seen: Vec<_> = stops.iter().map(|stop| (stop.resident_kib, stop.mappings)).collect();
    println!("{what}, resident KiB and mappings: {seen:?}");
    let is_long = quarter >= 8;
    let (early, late) = if is_long {
        (&stops[quarter..quarter * 2], &stops[stops.len() - quarter..])
    } else {
        stops.split_at(stops.len() / 2)
    };
    let check = |name: &str, figure: fn(&Stop) -> u64, more: u64| {
        let earlier = early.iter().map(figure);
        let earlier = if is_long { earlier.min() } else { earlier.max() }.expect("stops");
        let later = late.iter().map(figure).min().expect("stops");
        assert!(later <= earlier + earlier / 8 + more, "{what}: {name} grew from {earlier} to {later}: {seen:?}");
    };
    check("resident KiB", |stop| stop.resident_kib, 8192);
    check("mappings", |stop| stop.mappings, 100);
}

/// Of the form `8 of 8`.
fn assert_all_noticed(what: &str, noticed: &str) {
    let (noticed, planted) = noticed.trim().split_once(" of ").unwrap_or_else(|| panic!("{what}: {noticed}"));
    assert!(noticed == planted && planted != "0", "{what}: {noticed} of {planted} planted bugs were noticed");
}

/// Churns, with every bug planted in children at each stop, then commits `bug` itself, which must be reported as ever.
fn churns_and_reports(profile: &str, bug: &str, report: &str) {
    let folder = real::folder();
    let program = real::compile("c/soak.c", folder.path(), "program", &[]);
    let mut command = real::command(&program, folder.path(), Some(&format!("profile={profile}")));
    command.args([&length().as_secs().to_string(), &stops().to_string(), bug]);
    let ended = real::to_the_end_within(&mut command, patience());
    let seen: Vec<Stop> = ended
        .out()
        .lines()
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let mut number = || words.next().and_then(|word| word.parse().ok());
            let (Some(resident_kib), Some(mappings)) = (number(), number()) else { panic!("{profile}: {ended:?}") };
            assert_all_noticed(&format!("{profile}: {ended:?}"), words.next().unwrap_or_default());
            Stop { resident_kib, mappings }
        })
        .collect();
    assert_flat(profile, &seen);
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{profile}: {ended:?}");
    assert!(ended.err().starts_with(&format!("testudo: {report} at 0x")), "{profile}: {ended:?}");
}

#[test]
fn bugs_on_the_way_and_a_double_free_after_a_long_run_are_reported_in_default() {
    churns_and_reports("default", "double free", "double free");
}

#[test]
fn bugs_on_the_way_and_an_overflow_after_a_long_run_are_reported_in_strict() {
    churns_and_reports("strict", "overflow", "buffer overflow");
}

/// What a process occupies.
fn footprint(process: u32) -> Stop {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the server runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
    let resident_kib = resident.expect("a resident size").trim().parse().expect("a number");
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("the server runs");
    Stop { resident_kib, mappings: maps.lines().count() as u64 }
}

/// Ended with the test, however that ends.
struct Server(Option<Child>);

impl Server {
    fn id(&self) -> u32 {
        self.0.as_ref().expect("it runs").id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for what comes some time.
fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < patience(), "{what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// What the server's planted library has written by now: its line number `number`.
fn answer(file: &Path, number: usize) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    // A line that is not whole yet does not end.
    text.split_inclusive('\n').nth(number).filter(|line| line.ends_with('\n')).map(str::to_owned)
}

#[test]
fn a_server_under_changing_traffic_does_not_grow_and_notices_planted_bugs() {
    if !real::installed(&["redis-server", "redis-cli", "redis-benchmark"]) {
        return;
    }
    let folder = real::folder();
    let in_folder = |name| folder.path().join(name);
    let library = real::compile("c/soak_server.c", folder.path(), "planted.so", &["-shared", "-fPIC"]);
    assert!(
        real::to_the_end(real::command(&real::find("mkfifo").expect("mkfifo"), folder.path(), None).arg("orders"))
            .status
            .success()
    );
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let port = port.to_string();
    let log = fs::File::create(in_folder("log")).expect("a log");
    let program = |name, options| real::command(&real::find(name).expect("installed"), folder.path(), options);
    let mut command = program("redis-server", Some("profile=default"));
    command.env("LD_PRELOAD", format!("{} {}", support::libtestudo().display(), library.display()));
    command.env("SOAK_ORDERS", in_folder("orders")).env("SOAK_ANSWERS", in_folder("answers"));
    // Bounded, so that the amount of data stays the same. The server's own handler of crashes would allocate.
    command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--crash-log-enabled", "no"]);
    command.args(["--maxmemory", "60mb", "--maxmemory-policy", "allkeys-random"]);
    command.stdout(log.try_clone().expect("a duplicate")).stderr(log);
    let mut server = Server(Some(real::start(&mut command)));
    let answers = |args: &[&str]| real::to_the_end(program("redis-cli", None).args(["-p", &port]).args(args));
    await_some("redis-server does not answer", || (answers(&["PING"]).out() == "PONG\n").then_some(()));
    let order = |what: &str| {
        let mut orders = fs::OpenOptions::new().write(true).open(in_folder("orders")).expect("the library reads");
        orders.write_all(what.as_bytes()).expect("an order is given");
    };
    let traffic = || {
        for size in ["10", "200", "3000", "20000", "150000", "400000"] {
            let requests = if size.len() > 4 { "300" } else { "20000" };
            let mut client = program("redis-benchmark", None);
            client.args(["-p", &port, "-q", "-n", requests, "-r", "100000", "-P", "8", "-d", size]);
            client.args(["-t", "set,get,lpush,lpop,hset"]);
            let ended = real::to_the_end_within(&mut client, patience());
            assert!(ended.status.success(), "{ended:?}");
        }
        // A child that writes all data to a file.
        assert!(answers(&["BGSAVE"]).status.success());
        await_some("the data is not saved", || {
            let state = answers(&["INFO", "persistence"]).out();
            state
                .contains("rdb_bgsave_in_progress:0")
                .then(|| assert!(state.contains("rdb_last_bgsave_status:ok"), "{state}"))
        });
    };
    let mut seen = Vec::new();
    let started = Instant::now();
    while started.elapsed() < length() || seen.len() < 8 {
        traffic();
        seen.push(footprint(server.id()));
        order("c");
        let noticed = await_some("the library does not answer", || answer(&in_folder("answers"), seen.len() - 1));
        assert_all_noticed("redis-server", &noticed);
        println!("redis-server after {:?}: {:?}, noticed {}", started.elapsed(), seen.last(), noticed.trim());
    }
    order("d");
    let status = real::end_of(server.0.take().expect("it runs"), &command);
    let log = fs::read_to_string(in_folder("log")).expect("the log");
    let reports: Vec<_> = log.lines().filter(|line| line.starts_with("testudo: ")).collect();
    assert!(status.signal() == Some(libc::SIGABRT) && reports.len() == 1, "{status}: {log}");
    assert!(reports[0].starts_with("testudo: double free at 0x"), "{status}: {log}");
    assert_flat("redis-server", &seen);
}
