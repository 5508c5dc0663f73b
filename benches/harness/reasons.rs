//! Where the time goes that testudo takes beyond glibc's: for each workload, with one protection after another left out, and how
//! much of it is the kernel's. So a target that is missed has its reason beside it.

use std::fmt::Write as _;

use crate::arguments::Arguments;
use crate::measure::Usage;
use crate::peers::{self, Allocator};
use crate::places::Places;
use crate::prices;
use crate::publish::publish;
use crate::results::{Report, geometric_mean, median};
use crate::rounds;
use crate::workloads::{self, Group};

/// The name of the whole profile in the results.
const WHOLE: &str = "default";

/// What is left out, one more each time: its name, the build that lacks it and the options of that.
const STEPS: [(&str, &str, &str); 4] = [
    ("check at reuse", "write-after-free", "profile=default"),
    ("and zeroing", "zeroing", "profile=default"),
    ("and canary, checksum", "nothing", "profile=default"),
    ("and random choice, guard pages", "nothing", "profile=default:randomize=0:guard_pages=0"),
];

/// Builds what lacks something, measures it beside the whole and glibc, and prints the table.
pub fn run(places: &Places, arguments: &Arguments) -> Result<(), String> {
    if arguments.testudo.is_some() {
        return Err("reasons builds every library from the sources: --testudo does not go with it".into());
    }
    let whole = peers::testudo(places, arguments)?;
    let mut allocators = vec![Allocator::glibc(), Allocator::testudo(WHOLE, &whole, "profile=default")];
    for (name, build, options) in STEPS {
        allocators.push(Allocator::testudo(name, &prices::library(places, build)?, options));
    }
    let workloads = workloads::chosen(places, arguments)?;
    let report = rounds::measure_all(places, arguments, &workloads, &allocators, "reasons")?;
    publish(places, arguments, "reasons", &table(&report))
}

fn time(usage: &Usage) -> f64 {
    usage.user + usage.system
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "{}; {} rounds{}, interleaved, medians. Processor time × glibc of `default`, then with one protection after another left out (the\n\
         quarantine stays); of both how much is the kernel's, as shares of glibc's whole time; and page faults.\n\n\
         | processor time × glibc | `default` |",
        report.machine,
        report.rounds(),
        if report.quick { ", quick" } else { "" }
    );
    for (name, _, _) in STEPS {
        let name = if name.starts_with("and ") { name.into() } else { format!("without the {name}") };
        let _ = write!(text, " {name} |");
    }
    text += " kernel, glibc | kernel, `default` | faults, glibc | faults, `default` |\n|---|";
    text += &"---:|".repeat(STEPS.len() + 5);
    text.push('\n');
    let sides = || std::iter::once(WHOLE).chain(STEPS.iter().map(|(name, _, _)| *name));
    for workload in report.workloads.iter().filter(|workload| workload.timed) {
        let _ = write!(text, "| {} |", workload.name);
        for side in sides() {
            let ratio = report.ratio(&workload.name, side, "glibc", &time);
            let _ = write!(text, " {} |", ratio.map_or("–".into(), |ratio| format!("{:.2}", ratio.median)));
        }
        for side in ["glibc", WHOLE] {
            let shares = (0..report.rounds()).filter_map(|round| {
                let glibc = report.usage(&workload.name, "glibc", round)?;
                Some(report.usage(&workload.name, side, round)?.system / time(glibc).max(1e-9))
            });
            let share = median(&mut shares.collect::<Vec<_>>());
            let _ = write!(text, " {} |", share.map_or("–".into(), |share| format!("{share:.2}")));
        }
        for side in ["glibc", WHOLE] {
            let faults = (0..report.rounds()).filter_map(|round| report.usage(&workload.name, side, round));
            let faults = median(&mut faults.map(|usage| usage.minor_faults as f64).collect::<Vec<_>>());
            let _ = write!(text, " {} |", faults.map_or("–".into(), |faults| format!("{faults:.0}")));
        }
        text.push('\n');
    }
    let groups = [Some(Group::Program), Some(Group::Allocating), Some(Group::Walk), None];
    for group in groups {
        let _ = write!(text, "| **geometric mean, {}** |", group.map_or("all", Group::name));
        for side in sides() {
            let of_group = report
                .workloads
                .iter()
                .filter(|workload| workload.timed && group.is_none_or(|group| workload.group == group));
            let ratios = of_group.filter_map(|workload| report.ratio(&workload.name, side, "glibc", &time));
            let mean = geometric_mean(ratios.map(|ratio| ratio.median));
            let _ = write!(text, " {} |", mean.map_or("–".into(), |(mean, _)| format!("**{mean:.3}**")));
        }
        text += " | | | |\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{STEPS, WHOLE, table};
    use crate::measure::Usage;
    use crate::prices;
    use crate::results::{Described, Report, Run};
    use crate::workloads::Group;

    #[test]
    fn every_step_is_a_build_that_there_is() {
        assert!(STEPS.iter().all(|(_, build, _)| prices::is_build(build)));
    }

    #[test]
    fn a_row_has_the_ratios_the_kernels_shares_and_the_faults() {
        let run = |allocator: &str, user: f64, system: f64, minor_faults: u64| Run {
            workload: "w".into(),
            allocator: allocator.into(),
            round: 0,
            outcome: Ok(Usage { user, system, minor_faults, ..Usage::default() }),
        };
        let mut runs = vec![run("glibc", 0.9, 0.1, 7), run(WHOLE, 1.5, 0.5, 8)];
        runs.extend(STEPS.iter().map(|(name, _, _)| run(name, 1.0, 0.25, 0)));
        let described = Described { name: "w".into(), about: String::new(), group: Group::Program, timed: true };
        let allocators = runs.iter().map(|run| run.allocator.clone()).collect();
        let report = Report { machine: "m".into(), quick: true, workloads: vec![described], allocators, runs };
        let table = table(&report);
        assert!(table.contains("| w | 2.00 | 1.25 | 1.25 | 1.25 | 1.25 | 0.10 | 0.50 | 7 | 8 |\n"), "{table}");
        assert!(table.contains("| **geometric mean, all** | **2.000** | **1.250** |"), "{table}");
    }
}
