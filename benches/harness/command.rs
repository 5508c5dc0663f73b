//! Measures testudo beside other allocators: `testudo-benches all` builds what is missing, runs
//! every workload under every allocator and ends with a table, a picture and the raw numbers.

mod arguments;
mod entropy;
mod inputs;
mod instructions;
mod latency;
mod measure;
mod peer_builds;
mod peers;
mod picture;
mod placement;
mod placement_picture;
mod places;
mod prices;
mod publish;
mod quiet;
mod reasons;
mod redis;
mod results;
mod rounds;
mod table;
mod targets;
mod variants;
mod workloads;

use arguments::{Arguments, Command};
use places::Places;

fn main() {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}\n\n{}", arguments::USAGE);
            std::process::exit(2);
        }
    };
    if let Err(error) = execute(&arguments) {
        eprintln!("testudo-benches: {error}");
        std::process::exit(1);
    }
}

fn execute(arguments: &Arguments) -> Result<(), String> {
    let places = Places::new(arguments.out.as_deref())?;
    if arguments.command == Command::Table {
        return table::from_file(&places, arguments);
    }
    match arguments.command {
        Command::Prices => {
            places.build_programs()?;
            return prices::run(&places, arguments);
        }
        Command::Reasons => {
            places.build_programs()?;
            return reasons::run(&places, arguments);
        }
        Command::Placement => {
            places.build_programs()?;
            return placement::run(&places, arguments);
        }
        _ => {}
    }
    let allocators = peers::find(&places, arguments)?;
    if arguments.command == Command::Peers {
        return Ok(());
    }
    places.build_programs()?;
    match arguments.command {
        Command::All => {
            rounds::run(&places, arguments, &allocators)?;
            instructions::run(&places, arguments, &allocators)?;
            latency::run(&places, arguments, &allocators)?;
            quiet::run(&places, arguments, &allocators)?;
            targets::run(&places, arguments, &allocators)?;
            // Once more, because it is what the reader came for and has scrolled away.
            table::from_file(&places, arguments)
        }
        Command::Run => rounds::run(&places, arguments, &allocators),
        Command::Instructions => instructions::run(&places, arguments, &allocators),
        Command::Latency => latency::run(&places, arguments, &allocators),
        Command::Quiet => quiet::run(&places, arguments, &allocators),
        Command::Targets => targets::run(&places, arguments, &allocators),
        Command::List => {
            for workload in workloads::all(&places, arguments.quick, arguments.live) {
                println!("{:<18} {}", workload.name, workload.about);
            }
            Ok(())
        }
        Command::Peers | Command::Table | Command::Prices | Command::Reasons | Command::Placement => Ok(()),
    }
}
