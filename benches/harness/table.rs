//! The tables: each allocator's time and peak memory as ratios to glibc's.
//!
//! A ratio is taken inside one round, then the median over the rounds with the smallest and the
//! largest: what slows the machine for a minute slows both sides of the ratio.

use std::fmt::Write as _;

use crate::arguments::Arguments;
use crate::measure::Usage;
use crate::picture;
use crate::places::Places;
use crate::publish::publish;
use crate::results::{Ratio, Report, geometric_mean, median};
use crate::workloads::Group;

/// The allocator that the others are compared with.
const BASE: &str = "glibc";
/// Below this, memory is mostly the program's own image: such workloads stay out of the mean.
const LARGE_KIB: f64 = 10.0 * 1024.0;

/// One row: a workload and a cell for each allocator.
pub struct Row {
    pub name: String,
    /// glibc's own median, in the unit of the table.
    pub base: f64,
    pub cells: Vec<Option<Ratio>>,
    pub group: Group,
    pub in_mean: bool,
}

/// One quantity over all workloads and allocators.
pub struct Table {
    pub title: &'static str,
    pub unit: &'static str,
    pub rows: Vec<Row>,
}

impl Table {
    /// An allocator's geometric mean over the rows it has of a group, or of all, and how many
    /// those are.
    pub fn mean(&self, column: usize, group: Option<Group>) -> Option<(f64, usize)> {
        geometric_mean(self.counted(group).filter_map(|row| row.cells[column]).map(|ratio| ratio.median))
    }

    /// Number of allocators.
    pub fn columns(&self) -> usize {
        self.rows.first().map_or(0, |row| row.cells.len())
    }

    fn counted(&self, group: Option<Group>) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.in_mean && group.is_none_or(|group| row.group == group))
    }
}

/// Prints the last results, writes them as Markdown and draws the picture.
pub fn from_file(places: &Places, arguments: &Arguments) -> Result<(), String> {
    let report = Report::load(&places.results("results")).map_err(|error| format!("{error}; `run` writes it"))?;
    let timed = |name: &str| report.workloads.iter().any(|workload| workload.name == name && workload.timed);
    let time = compute(&report, "wall time", "s", &|usage| usage.wall, &timed, &|_| true);
    let processor = compute(&report, "processor time", "s", &|usage| usage.user + usage.system, &timed, &|_| true);
    let memory =
        compute(&report, "peak resident memory", "MiB", &|usage| usage.peak_kib as f64 / 1024.0, &|_| true, &|base| {
            base >= LARGE_KIB / 1024.0
        });
    let mut text = format!(
        "{}; {} rounds{}; ratios to glibc: median (least–most); in the column of glibc its own median\n",
        report.machine,
        report.rounds(),
        if report.quick { ", quick" } else { "" }
    );
    for table in [&time, &processor, &memory] {
        text += &markdown(&report, table);
    }
    text += &printed_numbers(&report);
    text += &failures(&report);
    let picture_file = places.out.join("results.svg");
    picture::draw(&picture_file, &report.allocators, &[&time, &memory], picture::everything)?;
    if arguments.publish {
        let file = places.root().join("docs/performance.svg");
        picture::draw(&file, &report.allocators, &[&processor, &memory], picture::summary)?;
    }
    publish(places, arguments, "results", &text)?;
    publish(places, arguments, "times", &short(&report, &processor, &memory))?;
    println!("the picture: {}", picture_file.display());
    Ok(())
}

fn compute(
    report: &Report,
    title: &'static str,
    unit: &'static str,
    quantity: &dyn Fn(&Usage) -> f64,
    belongs: &dyn Fn(&str) -> bool,
    in_mean: &dyn Fn(f64) -> bool,
) -> Table {
    let rows: Vec<Row> = report
        .workloads
        .iter()
        .filter(|workload| belongs(&workload.name))
        .map(|workload| {
            let name = &workload.name;
            let of = |allocator: &str, round| report.usage(name, allocator, round).map(quantity);
            let mut bases: Vec<f64> = (0..report.rounds()).filter_map(|round| of(BASE, round)).collect();
            let base = median(&mut bases).unwrap_or(f64::NAN);
            let cells =
                report.allocators.iter().map(|allocator| report.ratio(name, allocator, BASE, quantity)).collect();
            Row { name: name.clone(), base, cells, group: workload.group, in_mean: in_mean(base) }
        })
        .collect();
    Table { title, unit, rows }
}

/// Medians of processor time and means of memory, for readers rather than for judges.
fn short(report: &Report, processor: &Table, memory: &Table) -> String {
    let mut text = format!(
        "{}; {} rounds{}, interleaved; medians; for glibc its own seconds\n",
        report.machine,
        report.rounds(),
        if report.quick { ", quick" } else { "" }
    );
    for table in [processor, memory] {
        let rule = "---:|".repeat(report.allocators.len());
        let _ = write!(text, "\n| {} × glibc | {} |\n|---|{rule}\n", table.title, report.allocators.join(" | "));
        if table.title == processor.title {
            for row in &table.rows {
                let _ = write!(text, "| {} |", row.name);
                for (allocator, cell) in report.allocators.iter().zip(&row.cells) {
                    let _ = match cell {
                        Some(_) if allocator == BASE => write!(text, " {:.3} {} |", row.base, table.unit),
                        Some(ratio) => write!(text, " {:.2} |", ratio.median),
                        None => write!(text, " failed |"),
                    };
                }
                text.push('\n');
            }
        }
        means(&mut text, report, table);
    }
    text
}

fn markdown(report: &Report, table: &Table) -> String {
    let mut text = format!("\n**{}**\n\n| workload |", table.title);
    for allocator in &report.allocators {
        let _ = write!(text, " {allocator} |");
    }
    let _ = write!(text, "\n|---|{}\n", "---:|".repeat(report.allocators.len()));
    for row in &table.rows {
        let _ = write!(text, "| {} |", row.name);
        for (allocator, cell) in report.allocators.iter().zip(&row.cells) {
            let _ = match cell {
                Some(_) if allocator == BASE => write!(text, " {:.3} {} |", row.base, table.unit),
                Some(ratio) => {
                    write!(text, " {:.2} ({:.2}–{:.2}) |", ratio.median, ratio.least, ratio.most)
                }
                None => write!(text, " failed |"),
            };
        }
        text.push('\n');
    }
    means(&mut text, report, table);
    text
}

/// A row for the geometric mean of each group and of all.
fn means(text: &mut String, report: &Report, table: &Table) {
    for group in Group::ALL.map(Some).into_iter().chain([None]) {
        let counted = table.counted(group).count();
        if counted == 0 {
            continue;
        }
        let name = group.map_or("all", Group::name);
        let _ = write!(text, "| **geometric mean, {name} ({counted})** |");
        for column in 0..report.allocators.len() {
            let _ = match table.mean(column, group) {
                Some((mean, count)) if count == counted => write!(text, " **{mean:.3}** |"),
                Some((mean, count)) => write!(text, " {mean:.3} of {count} |"),
                None => write!(text, " – |"),
            };
        }
        text.push('\n');
    }
}

/// What the programs themselves printed about their work: medians.
fn printed_numbers(report: &Report) -> String {
    let mut text = String::new();
    for workload in report.workloads.iter().map(|workload| &workload.name) {
        let mut names: Vec<&String> = report
            .runs
            .iter()
            .filter(|run| &run.workload == workload)
            .filter_map(|run| run.outcome.as_ref().ok())
            .flat_map(|usage| usage.printed.keys())
            .filter(|name| *name != "checksum")
            .collect();
        names.sort();
        names.dedup();
        for name in names {
            let _ = write!(text, "| {workload}: {} |", name.replace('_', " "));
            for allocator in &report.allocators {
                let mut values: Vec<f64> = (0..report.rounds())
                    .filter_map(|round| report.usage(workload, allocator, round)?.printed.get(name).copied())
                    .collect();
                let _ = match median(&mut values) {
                    Some(value) if value >= 1000.0 => write!(text, " {value:.0} |"),
                    Some(value) => write!(text, " {value:.3} |"),
                    None => write!(text, " failed |"),
                };
            }
            text.push('\n');
        }
    }
    if text.is_empty() {
        return text;
    }
    let heads = report.allocators.join(" | ");
    let rule = "---:|".repeat(report.allocators.len());
    format!("\n**what the programs print, medians**\n\n| number | {heads} |\n|---|{rule}\n{text}")
}

fn failures(report: &Report) -> String {
    let mut failed: Vec<(String, usize)> = Vec::new();
    for run in &report.runs {
        if let Err(reason) = &run.outcome {
            let line = format!("{} under {}: {reason}", run.workload, run.allocator);
            match failed.iter_mut().find(|(other, _)| *other == line) {
                Some((_, times)) => *times += 1,
                None => failed.push((line, 1)),
            }
        }
    }
    if failed.is_empty() {
        return String::new();
    }
    let lines = failed.iter().map(|(line, times)| format!("- {line} ({times} ×)\n"));
    format!("\n**failed**\n\n{}", lines.collect::<String>())
}
