//! The pictures: for each workload a line, on it a point for each allocator at its ratio to glibc, on
//! a logarithmic scale: half as much and twice as much lie equally far from the middle. One has all workloads; the README's
//! has the programs and the means.

use std::path::Path;

use plotters::prelude::*;

use crate::table::{Row, Table};
use crate::workloads::Group;

const ROW_HEIGHT: u32 = 22;
const WIDTH: u32 = 1100;
/// Room for the lines' names.
const NAMES: u32 = 150;

/// A line of a picture: its name, and a ratio for each allocator that has one.
pub type Line = (String, Vec<Option<f64>>);

fn line(row: &Row) -> Line {
    (row.name.clone(), row.cells.iter().map(|cell| cell.map(|ratio| ratio.median)).collect())
}

fn mean(table: &Table, group: Option<Group>, name: String) -> Line {
    let means = (0..table.columns()).map(|column| table.mean(column, group).map(|(mean, _)| mean));
    (name, means.collect())
}

/// Every workload, and the mean of all.
pub fn everything(table: &Table) -> Vec<Line> {
    let mean = mean(table, None, "geometric mean".into());
    table.rows.iter().map(line).chain([mean]).collect()
}

/// The programs, and the means of each group and of all.
pub fn summary(table: &Table) -> Vec<Line> {
    let programs = table.rows.iter().filter(|row| row.group == Group::Program && row.in_mean).map(line);
    let groups = Group::ALL.map(|group| mean(table, Some(group), format!("mean, {}", group.name())));
    programs.chain(groups).chain([mean(table, None, "mean of all".into())]).collect()
}

/// Draws lines of the tables side by side into an SVG file.
pub fn draw(
    file: &Path,
    allocators: &[String],
    tables: &[&Table],
    lines: fn(&Table) -> Vec<Line>,
) -> Result<(), String> {
    let rows = tables.iter().map(|table| lines(table).len()).max().unwrap_or(0) as u32;
    let legend = (allocators.len() as u32).div_ceil(6) * 20 + 10;
    let size = (WIDTH, rows * ROW_HEIGHT + 90 + legend);
    let area = SVGBackend::new(file, size).into_drawing_area();
    area.fill(&WHITE).map_err(text_of)?;
    let (head, body) = area.split_vertically(legend);
    for (index, name) in allocators.iter().enumerate() {
        let at = (20 + (index as i32 % 6) * 175, 14 + (index as i32 / 6) * 20);
        head.draw(&point(name, index, at)).map_err(text_of)?;
        head.draw(&Text::new(name.clone(), (at.0 + 12, at.1 - 7), ("sans-serif", 14))).map_err(text_of)?;
    }
    for (panel, table) in body.split_evenly((1, tables.len())).iter().zip(tables) {
        draw_lines(panel, allocators, table.title, &lines(table))?;
    }
    area.present().map_err(text_of)
}

fn draw_lines(
    panel: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    allocators: &[String],
    title: &str,
    lines: &[Line],
) -> Result<(), String> {
    let values = || lines.iter().flat_map(|(_, values)| values.iter().flatten().copied());
    let most = values().fold(1.5_f64, f64::max).log2() + 0.2;
    let least = values().fold(0.8_f64, f64::min).log2() - 0.2;
    let last = lines.len() as f64;
    let mut chart = ChartBuilder::on(panel)
        .caption(format!("{title}, × glibc"), ("sans-serif", 18))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(NAMES)
        .build_cartesian_2d(least..most, last..0.0)
        .map_err(text_of)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(8)
        .disable_y_axis()
        .y_labels(0)
        .x_label_formatter(&|value| format!("{:.2}", value.exp2()))
        .draw()
        .map_err(text_of)?;
    chart.draw_series([PathElement::new(vec![(0.0, 0.0), (0.0, last)], BLACK.mix(0.6))]).map_err(text_of)?;
    for (number, (name, medians)) in lines.iter().enumerate() {
        let height = number as f64 + 0.5;
        chart
            .draw_series([PathElement::new(vec![(least, height), (most, height)], BLACK.mix(0.12))])
            .map_err(text_of)?;
        let (left, middle) = chart.backend_coord(&(least, height));
        let (base_left, base_top) = panel.get_base_pixel();
        panel
            .draw(&Text::new(
                name.clone(),
                (left - base_left - NAMES as i32 + 6, middle - base_top - 7),
                ("sans-serif", 13),
            ))
            .map_err(text_of)?;
        for (index, median) in medians.iter().enumerate() {
            if let Some(median) = median {
                let at = chart.backend_coord(&(median.log2(), height));
                let at = (at.0 - base_left, at.1 - base_top);
                panel.draw(&point(&allocators[index], index, at)).map_err(text_of)?;
            }
        }
    }
    Ok(())
}

/// testudo's own points are larger and full, so that the eye finds them first.
fn point(name: &str, index: usize, at: (i32, i32)) -> Circle<(i32, i32), i32> {
    let color = Palette99::pick(index).to_rgba();
    if name.starts_with("testudo") {
        Circle::new(at, 6, color.filled())
    } else {
        Circle::new(at, 4, color.stroke_width(2))
    }
}

fn text_of(error: impl std::fmt::Display) -> String {
    format!("cannot draw: {error}")
}
