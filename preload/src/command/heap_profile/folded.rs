//! Folded stacks, one line each, outermost call first: what flamegraph.pl, inferno and speedscope read.

use super::read::Profile;
use super::symbols::Symbols;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The stacks with one of their values.
pub fn text(profile: &Profile, symbols: &Symbols, value: usize) -> String {
    let mut stacks: BTreeMap<String, f64> = BTreeMap::new();
    for sample in &profile.samples {
        let mut names = Vec::new();
        for frame in symbols.callers(&sample.frames).iter().rev() {
            // A semicolon would end the name.
            names.extend(symbols.at(*frame).iter().rev().map(|function| function.name.replace(';', ":")));
        }
        let stack = if names.is_empty() { "unknown".to_owned() } else { names.join(";") };
        *stacks.entry(stack).or_default() += sample.values[value];
    }
    let mut text = String::new();
    for (stack, value) in stacks {
        if value >= 0.5 {
            let _ = writeln!(text, "{stack} {value:.0}");
        }
    }
    text
}
