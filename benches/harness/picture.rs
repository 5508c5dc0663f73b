//! The picture: for each workload a line, on it a point for each allocator at its ratio to glibc, on
//! a logarithmic scale: half as much and twice as much lie equally far from the middle.

use std::path::Path;

use plotters::prelude::*;

use crate::table::Table;

const ROW_HEIGHT: u32 = 22;
const WIDTH: u32 = 1100;

/// Draws the tables side by side into an SVG file.
pub fn draw(file: &Path, allocators: &[String], tables: &[&Table]) -> Result<(), String> {
    let rows = tables.iter().map(|table| table.rows.len()).max().unwrap_or(0) as u32 + 1;
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
        draw_table(panel, allocators, table)?;
    }
    area.present().map_err(text_of)
}

fn draw_table(
    panel: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    allocators: &[String],
    table: &Table,
) -> Result<(), String> {
    let mut lines: Vec<(String, Vec<Option<f64>>)> = table
        .rows
        .iter()
        .map(|row| {
            let medians = row.cells.iter().map(|cell| cell.map(|ratio| ratio.median));
            (row.name.clone(), medians.collect())
        })
        .collect();
    let means = (0..allocators.len()).map(|column| table.mean(column, None).map(|(mean, _)| mean)).collect();
    lines.push(("geometric mean".into(), means));
    let values = || lines.iter().flat_map(|(_, values)| values.iter().flatten().copied());
    let most = values().fold(1.5_f64, f64::max).log2() + 0.2;
    let least = values().fold(0.8_f64, f64::min).log2() - 0.2;
    let last = lines.len() as f64;
    let mut chart = ChartBuilder::on(panel)
        .caption(format!("{}, × glibc", table.title), ("sans-serif", 18))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(110)
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
            .draw(&Text::new(name.clone(), (left - base_left - 104, middle - base_top - 7), ("sans-serif", 13)))
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
