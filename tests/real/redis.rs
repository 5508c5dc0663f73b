//! A Redis server under load: every request answered, the data right, a snapshot from a forked
//! child, and a clean shutdown.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::{Stage, real};

const REQUESTS: u32 = 20_000;
const LOADED: u32 = 40_000;

pub fn redis_server(stage: &mut Stage) {
    let server = Server::start(stage);

    fs::write(stage.folder().join("load"), load()).expect("the load is written");
    let mut pipe = server.client(stage, &["--pipe"]);
    pipe.stdin(fs::File::open(stage.folder().join("load")).expect("the load is there"));
    let loaded = succeeded(&mut pipe);
    assert!(loaded.contains(&format!("errors: 0, replies: {LOADED}\n")), "{loaded}");
    stage.note("redis-cli --pipe", loaded);

    for question in [
        &["DEBUG", "DIGEST"][..],
        &["DBSIZE"],
        &["LRANGE", "list:3", "0", "20"],
        &["ZRANGE", "scores", "0", "50", "WITHSCORES"],
        &["SORT", "list:5", "ALPHA", "LIMIT", "0", "40"],
        &["EVAL", "local t = {} for i = 1, 20000 do t[i] = 'x' .. i end return #table.concat(t)", "0"],
    ] {
        let answer = succeeded(&mut server.client(stage, question));
        assert!(!answer.contains("ERR"), "{question:?}: {answer}");
        stage.note(&format!("redis-cli {question:?}"), answer);
    }

    benchmark(stage, &server);
    snapshot(stage, &server);
    server.shut_down(stage);
}

/// Runs redis-benchmark and notes how often the server says it carried out each command.
fn benchmark(stage: &mut Stage, server: &Server) {
    succeeded(&mut server.client(stage, &["CONFIG", "RESETSTAT"]));
    let mut command = stage.command("redis-benchmark");
    command
        .args(["-h", "127.0.0.1", "-p", &server.port, "--csv"])
        .args(["-n", &REQUESTS.to_string(), "-c", "50", "-r", "1000"])
        .args(["-d", "200", "-t"])
        .arg("set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,mset");
    let rows = succeeded(&mut command);
    // The other columns are times.
    let tests: Vec<_> = rows.lines().map(|row| row.split(',').next().unwrap_or_default()).collect();
    stage.note("redis-benchmark", tests.join("\n"));

    let statistics = succeeded(&mut server.client(stage, &["INFO", "commandstats"]));
    let mut calls: Vec<_> = statistics
        .lines()
        .filter(|line| line.starts_with("cmdstat_"))
        .filter(|line| !["info", "config"].iter().any(|own| line.contains(own)))
        .map(|line| line.split(",usec").next().unwrap_or_default())
        .collect();
    calls.sort_unstable();
    for command in ["set", "get", "incr", "sadd", "hset", "zadd", "mset"] {
        let answered = format!("cmdstat_{command}:calls={REQUESTS}");
        assert!(calls.contains(&answered.as_str()), "{answered}: {calls:?}");
    }
    stage.note("commands carried out", calls.join("\n"));
}

/// Has a forked child write the data to disk while the parent goes on working.
fn snapshot(stage: &mut Stage, server: &Server) {
    succeeded(&mut server.client(stage, &["BGSAVE"]));
    loop {
        let state = succeeded(&mut server.client(stage, &["INFO", "persistence"]));
        if state.contains("rdb_bgsave_in_progress:0") {
            assert!(state.contains("rdb_last_bgsave_status:ok"), "{state}");
            break;
        }
        succeeded(&mut server.client(stage, &["SET", "meanwhile", "yes"]));
    }
    assert!(stage.folder().join("dump.rdb").exists(), "no snapshot");
}

struct Server {
    child: Child,
    command: Command,
    port: String,
}

impl Server {
    /// Starts a server on a free port. Between finding the port and the server's binding it someone
    /// else may have taken it; then another one is tried.
    fn start(stage: &Stage) -> Self {
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|listener| listener.local_addr())
                .expect("a free port")
                .port()
                .to_string();
            let mut command = stage.command("redis-server");
            let log = fs::File::create(stage.folder().join("log")).expect("a log");
            command
                .args(["--port", &port, "--bind", "127.0.0.1"])
                .args(["--save", "", "--appendonly", "no"])
                .args(["--enable-debug-command", "local"])
                .stdout(log.try_clone().expect("a duplicate"))
                .stderr(log);
            let child = real::start(&mut command);
            let mut server = Self { child, command, port };
            if server.is_ready(stage) {
                return server;
            }
            let log = server.log(stage);
            assert!(log.contains("Address already in use"), "{log}");
        }
        panic!("no port stays free");
    }

    fn is_ready(&mut self, stage: &Stage) -> bool {
        let started = Instant::now();
        while started.elapsed() < real::DEADLINE {
            if self.child.try_wait().expect("a child").is_some() {
                return false;
            }
            if self.log(stage).contains("Ready to accept connections") {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("redis-server does not get ready: {}", self.log(stage));
    }

    fn log(&self, stage: &Stage) -> String {
        fs::read_to_string(stage.folder().join("log")).expect("the server's log")
    }

    fn client(&self, stage: &Stage, args: &[&str]) -> Command {
        let mut command = stage.command("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &self.port]).args(args);
        command
    }

    fn shut_down(self, stage: &mut Stage) {
        succeeded(&mut self.client(stage, &["SHUTDOWN", "NOSAVE"]));
        let log = stage.folder().join("log");
        let status = real::end_of(self.child, &self.command);
        let log = fs::read_to_string(log).expect("the server's log");
        assert!(status.success(), "redis-server: {status}: {log}");
        assert!(log.contains("ready to exit, bye bye"), "{log}");
        assert!(!log.contains("testudo: "), "{log}");
        stage.note("redis-server", status.to_string());
    }
}

/// Commands in Redis's own protocol, the same in every run.
fn load() -> String {
    let mut state = 1_u32;
    let mut commands = String::new();
    for number in 0..LOADED {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let key = state >> 18;
        let value = format!("{state:x}").repeat((state >> 8) as usize % 40);
        let words = match number % 5 {
            0 => vec!["SET".into(), format!("string:{key}"), value],
            1 => vec!["RPUSH".into(), format!("list:{}", key % 100), value],
            2 => vec!["HSET".into(), format!("hash:{}", key % 300), key.to_string(), value],
            3 => vec!["SADD".into(), format!("set:{}", key % 50), value],
            _ => vec!["ZADD".into(), "scores".into(), key.to_string(), value],
        };
        commands.push_str(&format!("*{}\r\n", words.len()));
        for word in words {
            commands.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
    }
    commands
}

/// Runs a client, which must succeed, and returns what it printed.
fn succeeded(command: &mut Command) -> String {
    let ended = real::to_the_end(command);
    assert!(ended.status.success(), "{command:?}: {ended:?}");
    ended.out()
}
