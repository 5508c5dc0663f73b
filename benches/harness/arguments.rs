//! The command line.

use std::path::PathBuf;

/// Shown when the command line is not understood.
pub const USAGE: &str = "\
usage: testudo-benches COMMAND [options]

  all            run, instructions, latency, quiet and targets, one after another
  run            every workload under every allocator: time and peak resident memory
  instructions   instructions per malloc(64)+free pair, counted by callgrind
  latency        p50, p99, p99.9 and longest single malloc and free
  quiet          resident memory after a spike of 2 GiB, 10 seconds of quiet, and malloc_trim
  prices         what each of testudo's protections costs, one turned off at a time
  reasons        where the time goes: every workload with one protection after another left out, and the kernel's share
  placement      what the order of handing out slots costs, and what an attacker lacks under it
  targets        what the project set out to reach: target, measured, whether it holds
  peers          only find and build the allocators
  list           the workloads
  table          table and picture again, from the last run's raw results

options:
  --rounds N               interleaved rounds (3)
  --quick                  about a fifth of the work
  --workloads A,B,…        only workloads whose name contains one of these
  --allocators A,B,…       only these allocators (exact names, or a prefix followed by *)
  --add NAME=LIB[@OPTIONS] one more allocator: a library to preload, or `testudo`, with
                           TESTUDO_OPTIONS; may be repeated
  --testudo LIB            this libtestudo.so instead of building one
  --live N                 live chunks of the workload `many` (20 million)
  --timeout S              seconds after which a program counts as failed (120)
  --publish                put the tables between their marks in the documents
  --out DIR                where programs, peers and results go (benches/out)";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    All,
    Run,
    Instructions,
    Latency,
    Quiet,
    Prices,
    Reasons,
    Placement,
    Targets,
    Peers,
    List,
    Table,
}

/// An allocator named on the command line.
#[derive(Clone, Debug)]
pub struct Added {
    pub name: String,
    /// `None` is testudo's own library.
    pub library: Option<PathBuf>,
    pub options: Option<String>,
}

/// The parsed command line.
#[derive(Clone, Debug)]
pub struct Arguments {
    pub command: Command,
    pub rounds: usize,
    pub quick: bool,
    pub workloads: Vec<String>,
    pub allocators: Vec<String>,
    pub added: Vec<Added>,
    pub testudo: Option<PathBuf>,
    pub timeout: u32,
    pub out: Option<PathBuf>,
    /// How many chunks the workload `many` keeps alive.
    pub live: Option<u64>,
    /// Whether tables go into the documents that have marks for them.
    pub publish: bool,
}

impl Arguments {
    /// Reads the words after the program's name.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let command = match words.next().as_deref() {
            Some("all") => Command::All,
            Some("run") => Command::Run,
            Some("instructions") => Command::Instructions,
            Some("latency") => Command::Latency,
            Some("quiet") => Command::Quiet,
            Some("prices") => Command::Prices,
            Some("reasons") => Command::Reasons,
            Some("placement") => Command::Placement,
            Some("targets") => Command::Targets,
            Some("peers") => Command::Peers,
            Some("list") => Command::List,
            Some("table") => Command::Table,
            Some(other) => return Err(format!("unknown command: {other}")),
            None => return Err("no command given".into()),
        };
        let mut arguments = Self {
            command,
            rounds: 3,
            quick: false,
            workloads: Vec::new(),
            allocators: Vec::new(),
            added: Vec::new(),
            testudo: None,
            timeout: 120,
            out: None,
            live: None,
            publish: false,
        };
        while let Some(word) = words.next() {
            if word == "--quick" {
                arguments.quick = true;
                continue;
            }
            if word == "--publish" {
                arguments.publish = true;
                continue;
            }
            let value = words.next().ok_or(format!("{word} needs a value"))?;
            match word.as_str() {
                "--rounds" => arguments.rounds = number(&word, &value)?.max(1) as usize,
                "--timeout" => arguments.timeout = number(&word, &value)?.max(1),
                "--workloads" => arguments.workloads = list(&value),
                "--allocators" => arguments.allocators = list(&value),
                "--add" => arguments.added.push(added(&value)?),
                "--testudo" => arguments.testudo = Some(value.into()),
                "--live" => arguments.live = Some(number(&word, &value)?.into()),
                "--out" => arguments.out = Some(value.into()),
                _ => return Err(format!("unknown option: {word}")),
            }
        }
        Ok(arguments)
    }

    /// Whether the workload of this name was asked for.
    pub fn wants_workload(&self, name: &str) -> bool {
        self.workloads.is_empty() || self.workloads.iter().any(|part| name.contains(part.as_str()))
    }

    /// Whether the allocator of this name was asked for. glibc is the measure of the others, so it
    /// always takes part.
    pub fn wants_allocator(&self, name: &str) -> bool {
        name == "glibc"
            || self.allocators.is_empty()
            || self.added.iter().any(|added| added.name == name)
            || self.allocators.iter().any(|wanted| match wanted.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == wanted,
            })
    }
}

fn number(option: &str, value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("{option} needs a number, not {value}"))
}

fn list(value: &str) -> Vec<String> {
    value.split(',').filter(|part| !part.is_empty()).map(String::from).collect()
}

fn added(value: &str) -> Result<Added, String> {
    let (name, rest) =
        value.split_once('=').ok_or(format!("--add needs NAME=LIB or NAME=testudo@OPTIONS, not {value}"))?;
    let (library, options) = match rest.split_once('@') {
        Some((library, options)) => (library, Some(options.to_string())),
        None => (rest, None),
    };
    let library = (library != "testudo").then(|| PathBuf::from(library));
    Ok(Added { name: name.into(), library, options })
}
