//! The functions that hold most, for people.

use super::VALUES;
use super::read::Profile;
use super::symbols::Symbols;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The functions that allocated most by themselves, with what was allocated below them too.
pub fn text(profile: &Profile, symbols: &Symbols, value: usize, top: usize) -> String {
    let mut functions: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    let mut all = 0.0;
    for sample in &profile.samples {
        let amount = sample.values[value];
        all += amount;
        let frames = symbols.callers(&sample.frames);
        let mut names: Vec<&str> =
            frames.iter().flat_map(|frame| symbols.at(*frame)).map(|function| function.name.as_str()).collect();
        if let Some(innermost) = names.first() {
            functions.entry(innermost).or_default().0 += amount;
        }
        // A function that calls itself holds what is below it once.
        names.sort_unstable();
        names.dedup();
        for name in names {
            functions.entry(name).or_default().1 += amount;
        }
    }
    let mut rows: Vec<_> = functions.into_iter().collect();
    rows.sort_by(|(_, (own_a, below_a)), (_, (own_b, below_b))| {
        (own_b, below_b).partial_cmp(&(own_a, below_a)).unwrap_or(std::cmp::Ordering::Equal)
    });
    let (name, unit) = VALUES[value];
    let sum = match unit {
        "bytes" => format!("{:.1} MiB", all / f64::from(1 << 20)),
        _ => format!("{all:.0} chunks"),
    };
    let mut text = format!("{name} of process {}: about {sum}\n\n", profile.process);
    let share = |amount: f64| if all > 0.0 { amount / all * 100.0 } else { 0.0 };
    let _ = writeln!(text, "{:>14} {:>6}  {:>14} {:>6}", "by itself", "%", "and below", "%");
    for (name, (own, below)) in rows.iter().take(top) {
        let _ = writeln!(text, "{own:>14.0} {:>6.1}  {below:>14.0} {:>6.1}  {name}", share(*own), share(*below));
    }
    text
}
