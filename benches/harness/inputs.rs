//! What the programs work on: some of it comes with the benchmark, some is too large or too dull to
//! keep and is made here, the same each time.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use crate::places::Places;

/// Makes every input. A quick run has inputs of its own size, so they are made anew each time.
pub fn make(places: &Places, quick: bool) -> Result<(), String> {
    let rows = if quick { "80000" } else { "300000" };
    write(places, "rows.sql", &read(places, "rows.sql")?.replace("ROWS", rows))?;
    let pages = if quick { "6" } else { "30" };
    write(places, "pages.ps", &read(places, "pages.ps")?.replace("PAGES", pages))?;
    write(places, "templates.cpp", &templates(if quick { 1 } else { 12 }))?;
    write(places, "puzzle.smt2", &puzzle(2_500).repeat(if quick { 1 } else { 4 }))?;
    // The renderer's input is the other program's output, always by the system's own allocator.
    let made = Command::new("gs")
        .args(["-q", "-dNOPAUSE", "-dBATCH", "-dSAFER", "-sDEVICE=pdfwrite", "-o"])
        .arg(path(places, "pages.pdf"))
        .arg(path(places, "pages.ps"))
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("no pages.pdf could be made with ghostscript: the PDF workload will fail");
    }
    Ok(())
}

fn path(places: &Places, name: &str) -> PathBuf {
    places.out.join("inputs").join(name)
}

fn read(places: &Places, name: &str) -> Result<String, String> {
    let source = places.package.join("inputs").join(name);
    std::fs::read_to_string(&source).map_err(|error| format!("{}: {error}", source.display()))
}

fn write(places: &Places, name: &str, text: &str) -> Result<(), String> {
    let made = path(places, name);
    std::fs::write(&made, text).map_err(|error| format!("{}: {error}", made.display()))
}

/// A small linear congruential generator: inputs must be the same on every machine, and with other
/// numbers the puzzle could take the solver an hour.
struct Numbers(u64);

impl Numbers {
    /// A number below `bound`, itself at most 32768.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = (self.0 * 1_103_515_245 + 12_345) % (1 << 31);
        (self.0 >> 16) % bound
    }
}

/// C++ that keeps a compiler's front end and optimiser busy.
fn templates(shapes: u64) -> String {
    let mut text = String::from(
        "#include <algorithm>\n#include <functional>\n#include <map>\n#include <memory>\n#include <string>\n\
         #include <unordered_map>\n#include <vector>\n\n\
         template <int N> struct shape {\n  std::map<std::string, std::vector<int>> seen;\n  \
         std::unordered_map<int, std::shared_ptr<shape>> next;\n  \
         int visit(const std::string &name, int depth) {\n    auto &list = seen[name + std::to_string(N)];\n    \
         list.push_back(depth);\n    std::sort(list.begin(), list.end(), [](int a, int b) { return a % (N + 2) < b % (N + 2); });\n    \
         if (depth > 0) {\n      auto &child = next[depth % (N + 3)];\n      if (!child) child = std::make_shared<shape>();\n      \
         return child->visit(name, depth - 1) + N;\n    }\n    return static_cast<int>(seen.size());\n  }\n};\n\n",
    );
    let mut numbers = Numbers(1);
    for shape in 0..shapes {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "int run_{shape}(int count) {{\n  shape<{shape}> top;\n  int sum = 0;\n  for (int i = 0; i < count; i++) {{\n    \
             sum += top.visit(\"n\" + std::to_string(i * {}), i % {});\n    std::function<int(int)> step = [&](int x) {{ return x * sum + {}; }};\n    \
             sum = step(sum) % {};\n  }}\n  return sum;\n}}\n",
            numbers.below(90) + 1,
            numbers.below(20) + 2,
            numbers.below(1000),
            numbers.below(10_000) + 7
        );
    }
    text
}

/// Linear arithmetic with case distinctions, and the factors of a semiprime as bit vectors.
fn puzzle(clauses: u64) -> String {
    let mut text = String::from("(declare-const a (_ BitVec 14))\n(declare-const b (_ BitVec 14))\n");
    for variable in 0..200 {
        let _ = writeln!(text, "(declare-const x{variable} Int)\n(declare-const c{variable} Bool)");
    }
    let mut numbers = Numbers(1);
    for _ in 0..clauses {
        let [a, b, c, d] = std::array::from_fn(|_| numbers.below(200));
        let _ = writeln!(
            text,
            "(assert (or (and c{a} (< (+ (* 3 x{b}) {}) (+ x{c} {}))) (not c{d}) \
             (let ((t (- x{a} x{d}))) (<= t (ite c{c} {} (+ x{b} {}))))))",
            numbers.below(90),
            numbers.below(9000),
            numbers.below(5000),
            numbers.below(5000)
        );
    }
    let semiprime = 16_319 * 16_301;
    let _ = writeln!(
        text,
        "(assert (= (bvmul (concat (_ bv0 14) a) (concat (_ bv0 14) b)) (_ bv{semiprime} 28)))\n\
         (assert (and (bvugt a (_ bv1 14)) (bvugt b (_ bv1 14))))\n(check-sat)"
    );
    text
}
